"""The code on the page about parameter graphs runs as it stands, block after block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gmn_opt.graph.rules import RULES

PAGE = Path(__file__).parent.parent.parent / "docs" / "parameter_graphs.md"


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.DOTALL)
    assert len(blocks) == 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    try:
        for number, code in enumerate(blocks):
            exec(compile(code, f"parameter_graphs.md, block {number}", "exec"), names)
    finally:
        RULES.pop("unit_rows", None)
    assert (tmp_path / "network.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    assert "0.weight" in shown
    assert "of the parameters lie along a space" in shown
