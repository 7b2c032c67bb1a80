"""The published table of traced models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from experiments.graph_coverage import main


def test_a_table_and_a_record_are_written(tmp_path: Path) -> None:
    main(tmp_path, symmetries=2, only="attention_gqa", big=False)
    record = json.loads((tmp_path / "result.json").read_text())
    (row,) = record["rows"]
    assert row["model"] == "attention_gqa"
    assert row["spaces"] == 5
    assert row["by_hand"] == 5
    assert row["conditional"] == 3
    assert row["coverage"] > 0.99
    assert row["error"] < 1e-9
    assert record["environment"]["torch"]
    assert (
        f"| attention_gqa | {row['parameters']} | 5 / 5 | 3 | 99.3% |"
        in (tmp_path / "README.md").read_text()
    )


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no model has 'nonsense'"):
        main(tmp_path, only="nonsense")
