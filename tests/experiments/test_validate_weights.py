"""Weights side by side on the validation tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from experiments import validate_weights
from gmn_opt.meta import MetaConfig, MetaTrainer
from gmn_opt.optim import LearnedRule, save_rule
from tasks.classification import ImageClassification
from tasks.suites import MetaTrainSuite

TASK = ImageClassification("mnist", 8, (6,), batch_size=8)


def test_weights_are_measured_as_in_meta_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate_weights, "validation", lambda: [TASK])
    own = tmp_path / "own.safetensors"
    rule = LearnedRule()
    rule.block_head.bias.data[0] -= 2.0
    save_rule(own, rule)
    validate_weights.main(["initial", str(own)], tmp_path, steps=9, networks=2)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["weights"]["initial"]["score"] == 0.0
    assert record["weights"]["initial"]["ratios"] == {TASK.name: 1.0}
    config = MetaConfig(meta_steps=1, runs=1, meta_batch=1, validation_steps=9)
    trainer = MetaTrainer(MetaTrainSuite(("tabular",)), config, validation=[TASK], start=rule)
    assert record["weights"][str(own)]["score"] == trainer.validate() != 0.0


def test_unknown_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        validate_weights.main(["initial", "luck"], tmp_path)
    assert "No weights named 'luck'" in capsys.readouterr().out
    assert not (tmp_path / "result.json").exists()
