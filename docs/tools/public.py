"""The public names of gmn-opt, and the pages of the reference that they stand on.

``python -m docs.tools.public`` adds names that are new to the ends of their pages.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

#: Modules whose ``__all__`` is public, by the page of the reference that documents them.
MODULES = {
    "gmn_opt": "",  # its names stand on the pages of their homes
    "gmn_opt.graph": "graph",
    "gmn_opt.graph.tracing.rules": "graph",
    "gmn_opt.alignment": "alignment",
    "gmn_opt.widening": "alignment",
    "gmn_opt.metanet": "metanet",
    "gmn_opt.metanet.baselines": "metanet",
    "gmn_opt.optim": "optim",
    "gmn_opt.predict": "predict",
    "gmn_opt.inr": "inr",
    "gmn_opt.generate": "generate",
    "gmn_opt.meta": "meta",
    "gmn_opt.meta.estimators": "meta",
    "gmn_opt.data": "data",
    "gmn_opt.weights": "weights",
    "gmn_opt.theory.computation": "theory",
}
#: Public names of modules that have no ``__all__``: guide pages and examples use them.
MORE = (
    "gmn_opt.generate.digits.load_digits",
    "gmn_opt.generate.digits.pictures",
    "gmn_opt.graph.edges.edge_list",
    "gmn_opt.inr.edits.edited",
    "gmn_opt.inr.edits.register_edit",
    "gmn_opt.metanet.scale.random_scales",
    "gmn_opt.metanet.scale.rescale",
)
#: Modules with an ``__all__`` that nobody should build on.
INTERNAL = {
    "gmn_opt.cli": "the command, documented by its help",
    "gmn_opt.cli.inr": "a part of it",
    "gmn_opt.metanet.native": "how the CPU's kernels are called",
}


class PublicName(NamedTuple):
    """A name that users may import, and where."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """``gmn_opt.graph.trace``, say."""
        return f"{self.module}.{self.name}"

    @property
    def value(self) -> Any:
        """What the name stands for."""
        return getattr(import_module(self.module), self.name)


def public_names() -> list[PublicName]:
    """All public names, each object once: at the root, where it is there, or else at its module."""
    found: dict[int, PublicName] = {}
    for module in MODULES:
        for name in import_module(module).__all__:
            entry = PublicName(module, name)
            if name != "__version__":
                found.setdefault(id(entry.value), entry)
    for path in MORE:
        module, _, name = path.rpartition(".")
        entry = PublicName(module, name)
        found.setdefault(id(entry.value), entry)
    return list(found.values())


def page_of(name: PublicName) -> str:
    """The page of the reference that a name belongs on."""
    home = name.value.__module__ if name.module == "gmn_opt" else name.module
    while not MODULES.get(home):
        home = home.rpartition(".")[0]
    return f"{MODULES[home]}.md"


def reference_entries() -> dict[str, str]:
    """Every path that the reference documents, and its page."""
    entries: dict[str, str] = {}
    for page in sorted((DOCS / "api").glob("*.md")):
        for path in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE):
            if path in entries:
                raise ValueError(f"{path} stands on {entries[path]} and on {page.name}.")
            entries[path] = page.name
    return entries


def mentions(name: PublicName) -> list[str]:
    """The guide pages (not the reference) that name it in code."""
    pattern = re.compile(rf"(?<![\w]){re.escape(name.name)}(?!\w)")
    pages = []
    for page in sorted(DOCS.glob("*.md")):
        code = re.findall(r"```.*?```|`[^`\n]+`", page.read_text("utf-8"), re.DOTALL)
        if any(pattern.search(c) for c in code):
            pages.append(page.name)
    return pages


def is_code(name: PublicName) -> bool:
    """Whether it is a class or a function. Constants only have the docstrings of their types."""
    return inspect.isclass(name.value) or inspect.isfunction(name.value)


def table() -> str:
    """Every public name, what it is, and the pages that use it."""
    entries = reference_entries()
    rows = ["| Name | What it is | Used in |", "|---|---|---|"]
    for name in public_names():
        summary = (inspect.getdoc(name.value) or "").split("\n")[0] if is_code(name) else ""
        summary = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", summary).replace("|", "\\|")
        pages = ", ".join(f"[{page[:-3]}](../{page})" for page in mentions(name))
        rows.append(f"| [`{name.path}`]({entries[name.path]}#{name.path}) | {summary} | {pages} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Add what is missing; names that are gone are named."""
    names = {name.path: page_of(name) for name in public_names()}
    entries = reference_entries()
    for path in names.keys() - entries.keys():
        page = DOCS / "api" / names[path]
        page.write_text(f"{page.read_text('utf-8').rstrip()}\n\n::: {path}\n", "utf-8")
        print(f"{page.name} has {path}: move it to its place.")
    for path in entries.keys() - names.keys():
        print(f"{entries[path]} has {path}, which is not public.")


if __name__ == "__main__":
    main()
