"""What mkdocs does not do by itself: pages and records that lie outside of docs/.

Pages link to records and to the changelog by their places in the repository, so that links work
there as well. On the site the files are copied, and links rewritten.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

#: Folders and files of the repository that the site has, and where.
SHOWN = {
    "experiments/results": "records",
    "examples": "examples",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "license.txt",
    "CITATION.cff": "CITATION.cff",
    "gmn_opt/data/bundled/DATA.md": "data_licenses.md",
}
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(\))")


def _places() -> dict[Path, str]:
    """The place on the site of every file that is shown from outside of docs/."""
    places = {}
    for source, target in SHOWN.items():
        path = ROOT / source
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            if "__pycache__" not in file.parts:
                rest = file.relative_to(path).as_posix() if path.is_dir() else ""
                places[file] = f"{target}/{rest}" if rest else target
    return places


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is shown from outside of docs/, and the table of public names."""
    from docs.tools.public import table

    for file, place in _places().items():
        files.append(File.generated(config, place, abs_src_path=str(file)))
    names = (ROOT / "docs/api/index.md").read_text("utf-8").replace("[names]", table())
    old = files.get_file_from_path("api/index.md")
    if old is not None:
        files.remove(old)
    files.append(File.generated(config, "api/index.md", content=names))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Turn links between places in the repository into links between places on the site."""
    places = _places()
    source = {place: file for file, place in places.items()}.get(page.file.src_uri)
    here = source or ROOT / "docs" / page.file.src_uri
    up = "../" * page.file.src_uri.count("/")

    def rewritten(match: re.Match[str]) -> str:
        target = (here.parent / match[2]).resolve()
        if target in places:
            place = places[target]
        elif source is not None and target.is_relative_to(ROOT / "docs"):
            place = target.relative_to(ROOT / "docs").as_posix()
        else:
            return match[0]
        return f"{match[1]}{up}{place}{match[3] or ''}{match[4]}"

    return LINK.sub(rewritten, markdown)
