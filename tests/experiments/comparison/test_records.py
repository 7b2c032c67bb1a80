"""Baselines of a finished comparison, from its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.comparison.tiny import cells_of, compare, refused

pytestmark = pytest.mark.usefixtures("tiny_suite")


def record_of(whole: Path, folder: Path, **changes: Any) -> Path:
    """A folder with the record of a comparison alone, as it is published."""
    folder.mkdir()
    record = json.loads((whole / "result.json").read_text()) | changes
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def test_baselines_may_be_a_record_alone(tmp_path: Path, compared: Path) -> None:
    folder = record_of(compared, tmp_path / "record")
    found = compare(tmp_path / "a", weights="initial", baselines=folder)
    expected = compare(tmp_path / "b", weights="initial", baselines=compared)
    assert all(cell.method.startswith("gmn") for cell in cells_of(tmp_path / "a"))
    assert len(found["workloads"]) == len(expected["workloads"]) > 0
    for one, other in zip(found["workloads"], expected["workloads"], strict=True):
        assert list(one["contestants"]) == list(other["contestants"])
        for name, facts in one["contestants"].items():
            for key in ("rate", "train_loss", "test_loss", "accuracy", "curve", "steps_to_target"):
                assert facts[key] == other["contestants"][name][key], (name, key)
    assert found["notes"][0].startswith("All but the learned rule was run earlier, at commit ")
    assert found["notes"][0] in (tmp_path / "a" / "report.md").read_text()


def test_a_record_that_does_not_serve_is_refused(
    tmp_path: Path, compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((compared / "result.json").read_text())
    other = {"settings": record["settings"] | {"seed": 7}}
    assert "(seed: 7 there, 2024 here)" in refused(
        tmp_path / "out", capsys, baselines=record_of(compared, tmp_path / "a", **other)
    )
    fewer = {"optimizers": [o for o in record["optimizers"] if o["name"] != "adamw_cosine"]}
    assert "has no adamw_cosine with these rates" in refused(
        tmp_path / "out", capsys, baselines=record_of(compared, tmp_path / "b", **fewer)
    )
    short = {"workloads": record["workloads"][1:]}
    assert f"lacks 1 of {len(record['workloads'])} workloads" in refused(
        tmp_path / "out", capsys, baselines=record_of(compared, tmp_path / "c", **short)
    )
    assert not (tmp_path / "out").exists()
