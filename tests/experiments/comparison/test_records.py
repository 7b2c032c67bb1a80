"""Baselines of a finished comparison, from its record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import compare_optimizers
from tests.experiments.comparison.tiny import TASKS, cells_of, compare, refused


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compare_optimizers.SUITES, "held_out", lambda: list(TASKS))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison that ran through."""
    folder = tmp_path_factory.mktemp("compare") / "whole"
    compare(folder)
    return folder


def record_of(whole: Path, folder: Path, **changes: Any) -> Path:
    """A folder with the record of a comparison alone, as it is published."""
    folder.mkdir()
    record = json.loads((whole / "result.json").read_text()) | changes
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def test_baselines_may_be_a_record_alone(tmp_path: Path, whole: Path) -> None:
    folder = record_of(whole, tmp_path / "record")
    found = compare(tmp_path / "a", weights="initial", baselines=folder)
    expected = compare(tmp_path / "b", weights="initial", baselines=whole)
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
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((whole / "result.json").read_text())
    other = {"settings": record["settings"] | {"seed": 7}}
    assert "(seed: 7 there, 2024 here)" in refused(
        tmp_path / "out", capsys, baselines=record_of(whole, tmp_path / "a", **other)
    )
    fewer = {"optimizers": [o for o in record["optimizers"] if o["name"] != "adamw_cosine"]}
    assert "has no adamw_cosine with these rates" in refused(
        tmp_path / "out", capsys, baselines=record_of(whole, tmp_path / "b", **fewer)
    )
    short = {"workloads": record["workloads"][1:]}
    assert f"lacks 1 of {len(record['workloads'])} workloads" in refused(
        tmp_path / "out", capsys, baselines=record_of(whole, tmp_path / "c", **short)
    )
    assert not (tmp_path / "out").exists()
