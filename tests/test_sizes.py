"""Files have at most 400 lines, and functions at most 70."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("gmn_opt", "tasks", "experiments", "examples", "docs", "tests")
MOST_LINES, MOST_IN_A_FUNCTION = 400, 70
#: What is longer still, and by how much at most; to be split where somebody works on it next.
LONGER = {
    "tests/cli/test_inr.py": 480,
}


def sizes(path: Path) -> dict[str, int]:
    """Lines of a file and of each of its functions, decorators not counted."""
    text, name = path.read_text("utf-8"), path.relative_to(ROOT).as_posix()
    found = {name: len(text.splitlines())}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            found[f"{name}::{node.name}"] = max(lines, found.get(f"{name}::{node.name}", 0))
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_is_longer_than_it_should_be(room: str) -> None:
    paths = sorted((ROOT / room).rglob("*.py"))
    assert paths
    for path in paths:
        for name, lines in sizes(path).items():
            most = MOST_IN_A_FUNCTION if "::" in name else MOST_LINES
            assert lines <= LONGER.get(name, most), name


def test_functions_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    body = "".join(f"    x = {i}\n" for i in range(9))
    (tmp_path / "a.py").write_text(f"@wraps\ndef f():\n{body}class C:\n    def g(self): pass\n")
    assert sizes(tmp_path / "a.py") == {"a.py": 13, "a.py::f": 10, "a.py::g": 1}
