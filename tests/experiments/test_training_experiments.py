"""Experiments that train with GMNOptimizer and with others: sizes, fine-tuning, cost of a step."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

from experiments import fine_tuning, scaling
from experiments.benchmarks import step_cost
from tasks.classification import ImageClassification


def test_every_size_is_trained_by_all(tmp_path: Path) -> None:
    scaling.main(tmp_path, widths="4,8", depths="2", steps=4, weights="initial")
    record = json.loads((tmp_path / "result.json").read_text())
    kinds = {(r["what"], r["value"]) for r in record["rows"]}
    assert kinds == {("width", 4), ("width", 8), ("depth", 2)}
    assert len(record["rows"]) == 3 * len(scaling.CONTESTANTS)
    assert all(0 < r["train_loss"] < 5 for r in record["rows"])
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_baselines_of_sizes_may_be_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few: dict[str, Any] = {"widths": "4", "depths": "2", "steps": 4}
    scaling.main(tmp_path / "a", weights="initial", **few)
    before = json.loads((tmp_path / "a" / "result.json").read_text())
    for row in before["rows"]:
        row["train_loss"] += 100
    (tmp_path / "a" / "result.json").write_text(json.dumps(before))
    scaling.main(tmp_path / "b", baselines=tmp_path / "a", **few)
    after = json.loads((tmp_path / "b" / "result.json").read_text())
    assert [r["optimizer"] for r in after["rows"]] == [r["optimizer"] for r in before["rows"]]
    for one, other in zip(before["rows"], after["rows"], strict=True):
        assert (one == other) == (one["optimizer"] != "GMN, total_steps")
    assert after["baselines"] == before["environment"]
    for change, message in (
        ({"steps": 5}, "was run otherwise (steps: 4 there, 5 here)"),
        ({"widths": "4,6"}, "lacks 2 of 6 rows, Muon 0.02, cosine at width 6 among them"),
    ):
        with pytest.raises(typer.Exit):
            scaling.main(tmp_path / "c", baselines=tmp_path / "a", **(few | change))
        assert message in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "c").exists()


def test_low_rank_changes_start_at_zero_and_train_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(5, 1, 4, 4)
    expected = model(x)
    tuned = fine_tuning.with_lora(copy.deepcopy(model))
    torch.testing.assert_close(tuned(x), expected, rtol=0, atol=0)
    trained = {n for n, p in tuned.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in tuned.named_parameters() if n.endswith((".up", ".down"))}
    assert len(trained) == 4


def test_fine_tuning_writes_both_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ImageClassification("mnist", 8, (6,), batch_size=8)
    new = ImageClassification("digits", 8, (6,), batch_size=8)
    monkeypatch.setattr(fine_tuning, "pairs", lambda: {"small": (old, new)})
    monkeypatch.setattr(fine_tuning, "RATES", (1e-3,))
    fine_tuning.main(tmp_path, 60, 30, 100, seeds=1, factors="1,0.1", weights="initial")
    record = json.loads((tmp_path / "result.json").read_text())
    assert {r["optimizer"] for r in record["summary"]} == {"GMN", "GMN x 0.1", "AdamW 0.001"}
    start = record["before"][0]
    full = {r["optimizer"]: r for r in record["summary"] if r["way"] == "full"}
    assert full["GMN"]["new"] < start["new"]


def test_a_step_costs_what_its_share_of_thoughts_says(tmp_path: Path) -> None:
    step_cost.main(tmp_path, steps=4, only="CNN")
    models = json.loads((tmp_path / "result.json").read_text())["models"]
    (facts,) = models.values()
    ms = facts["milliseconds"]
    assert 0 < ms["gmn"] < ms["thinking"]
