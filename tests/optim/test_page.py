"""The table of features in docs/optimizer_tests.md."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "optimizer_tests.md"


def test_every_row_of_ours_names_its_test() -> None:
    text = PAGE.read_text("utf-8")
    table = text[text.index("| Feature |") :].split("\n\n")[0].splitlines()
    assert "ours" in table[0]
    assert len(table) > 35
    for row in table[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 6, row
        assert all(cells), row
        assert re.search(r"`[\w/]+\.py::\w+`", cells[5]) or cells[5].startswith("same, case"), row
