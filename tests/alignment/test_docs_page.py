"""The code on the page about aligning runs as it stands, block after block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "align.md"


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.DOTALL)
    assert len(blocks) == 8
    names: dict[str, Any] = {"__name__": "docs"}
    for number, code in enumerate(blocks):
        exec(compile(code, f"align.md, block {number}", "exec"), names)
    assert "barrier" in capsys.readouterr().out
