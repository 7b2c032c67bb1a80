"""The measure of how steady long runs are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import stability
from tasks.classification import ImageClassification


def test_worst_rise_and_divergence() -> None:
    falling = torch.linspace(2.0, 0.5, 600)
    bump = falling.clone()
    bump[300:380] += 3.0  # longer than the window, so its mean shows in full
    risen = torch.cat([falling[:300], torch.linspace(1.25, 4.0, 300)])
    broken = falling.clone()
    broken[450] = float("nan")
    found = stability.judge(torch.stack([falling, bump, risen, broken], 1))
    assert found["worst_rise"][0] == pytest.approx(1.0, abs=1e-3)
    low = falling[250:300].mean()
    assert found["worst_rise"][1] == pytest.approx(float(bump[300:350].mean() / low), rel=0.02)
    assert found["diverged"] == [False, False, True, True]


def test_the_experiment_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "TASK", ImageClassification("mnist", 8, (6, 6), batch_size=8))
    stability.main("initial", tmp_path, steps="8,24", seeds=2)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["runs"].keys() == {"8", "24"}
    for modes in record["runs"].values():
        assert modes.keys() == {"open", "total_steps"}
        assert all(len(facts["final_train_loss"]) == 2 for facts in modes.values())
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_unknown_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(stability.typer.Exit):
        stability.main("nothing-of-this-name", tmp_path)
    assert "nothing-of-this-name" in capsys.readouterr().out
    assert not (tmp_path / "result.json").exists()
