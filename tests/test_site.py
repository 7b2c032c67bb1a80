"""The site: every public name on one page of the reference, every table as the records have it."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from docs.tools import figures, public

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ENTRIES = public.reference_entries()


def test_every_public_name_stands_on_its_page_of_the_reference() -> None:
    expected = {name.path: public.page_of(name) for name in public.public_names()}
    assert expected == ENTRIES, "run `python -m docs.tools.public`"


@pytest.mark.parametrize("name", public.public_names(), ids=lambda n: n.path)
def test_public_names_are_documented(name: public.PublicName) -> None:
    value = name.value
    if not public.is_code(name):
        page = (DOCS / "api" / ENTRIES[name.path]).read_text("utf-8")
        assert re.search(rf"^::: {re.escape(name.path)}\n\n[A-Z]", page, re.MULTILINE)
        return
    assert inspect.getdoc(value)
    for member, found in vars(value).items() if inspect.isclass(value) else ():
        method = found.fget if isinstance(found, property) else found
        if not member.startswith("_") and inspect.isfunction(method):
            assert inspect.getdoc(getattr(value, member)), member


def test_packages_are_public_or_said_to_be_internal() -> None:
    for file in sorted((ROOT / "gmn_opt").rglob("__init__.py")):
        module = ".".join(file.parent.relative_to(ROOT).parts)
        if re.search(r"^__all__ = ", file.read_text("utf-8"), re.MULTILINE):
            assert (module in public.MODULES) != (module in public.INTERNAL), module


def _imports(code: str) -> set[str]:
    """The names of gmn-opt that a piece of code imports."""
    return {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gmn_opt")
        for alias in node.names
    }


def test_pages_and_examples_import_public_names_only() -> None:
    documented = {id(name.value) for name in public.public_names()}
    texts = [re.findall(r"^```python\n(.*?)^```", p.read_text("utf-8"), re.M | re.DOTALL)
             for p in figures.PAGES]  # fmt: skip
    texts.append([p.read_text("utf-8") for p in sorted((ROOT / "examples").glob("*.py"))])
    found = {path for codes in texts for code in codes for path in _imports(code)}
    assert len(found) > 30
    for path in sorted(found):
        module, _, name = path.rpartition(".")
        try:
            value = getattr(import_module(module), name)
        except AttributeError:  # a module of a module
            value = import_module(path)
        if inspect.ismodule(value):
            assert value.__name__ in {*public.MODULES, *public.INTERNAL}, path
        else:
            assert id(value) in documented, path


@pytest.mark.parametrize("page", figures.PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count("<!-- figures: ") == len(figures.MARKED.findall(text))
    assert figures.updated(text) == text, "run `make figures`"


def test_every_table_is_shown() -> None:
    shown = [n for page in figures.PAGES for _, n, _ in figures.MARKED.findall(page.read_text())]
    assert set(shown) == figures.TABLES.keys()


def test_the_menu_has_every_page() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1]
    entries = re.findall(r": (\S+\.md)$", menu, re.MULTILINE)
    from_elsewhere = {"changelog.md", "contributing.md"}
    pages = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    assert sorted(entries) == sorted(pages | from_elsewhere)


def test_pictures_have_a_caption() -> None:
    for page in figures.PAGES:
        paragraphs = page.read_text("utf-8").split("\n\n")
        for picture, below in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
            if picture.startswith("!["):
                assert re.match(r"[A-Z]", below.strip()), f"{page.name}: {picture}"


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        env={"NO_MKDOCS_2_WARNING": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "api/index.html").read_text("utf-8")
    assert "optim.html#gmn_opt.GMNOptimizer" in index
    for page in tmp_path.rglob("*.html"):
        assets = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text()
        )
        assert not assets, f"{page.name} fetches {assets}"
