"""A comparison of optimizers that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from experiments import compare_optimizers
from experiments.comparison.cells import Cell
from tasks.base import DataTask
from tasks.classification import ImageClassification
from tasks.tabular import Tabular

TASKS: list[DataTask] = [
    ImageClassification("mnist", 8, (5,), batch_size=8),
    Tabular("iris", (4,), batch_size=8),
]
OPTIMIZERS = "gmn_total_steps,gmn_initial_total_steps,adamw_default,adamw,adamw_cosine,muon_cosine"
GRIDS = ["adamw=0.001,0.01", "adamw_cosine=0.003,0.03", "muon_cosine=0.02,0.05"]


def compare(out: Path, **options: Any) -> dict[str, Any]:
    """The record of a tiny comparison."""
    given: dict[str, Any] = {
        "optimizers": OPTIMIZERS, "rates": GRIDS, "lengths": "5,8", "long": "", "seeds": 2,
        "workers": 0, "probes": 4, "long_tasks": "mnist", **options,
    }  # fmt: skip
    compare_optimizers.main(out, **given)
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def cells_of(out: Path) -> dict[Cell, dict[str, Any]]:
    """What the runs of a comparison wrote."""
    lines = (out / "cells.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({Cell.of(r) for r in records}) == len(records)  # nothing twice
    return {Cell.of(r): r for r in records}


def refused(out: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    """What it says as it leaves."""
    with pytest.raises(typer.Exit) as caught:
        compare(out, **options)
    assert caught.value.exit_code == 2
    return capsys.readouterr().out
