"""How much of what was learned to keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from experiments import shrink_rule
from gmn_opt.optim import LearnedRule, load_rule, save_rule
from tasks.classification import ImageClassification

FEW: dict[str, Any] = {"steps": 6, "networks": 1}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a run whose rule changes the base."""
    task = ImageClassification("mnist", 8, (6,), batch_size=8)
    monkeypatch.setattr(shrink_rule, "validation", lambda: [task])
    rule = LearnedRule()
    with torch.no_grad():
        rule.block_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "run"
    save_rule(folder / "weights.safetensors", rule)
    (folder / "result.json").write_text('{"command": "meta_train"}')
    return folder


def shrinkage(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert found["command"] == "meta_train"
    kept: dict[str, Any] = found["shrinkage"]
    return kept


def test_shares_of_two_times_multiply(run: Path, tmp_path: Path) -> None:
    shrink_rule.main(run, tmp_path / "once", shares="0.5,0.25", **FEW)
    shrink_rule.main(tmp_path / "once", tmp_path / "twice", shares="0.5", **FEW)
    first, second = shrinkage(tmp_path / "once"), shrinkage(tmp_path / "twice")
    scores = {share: found["score"] for share, found in first["shares"].items()}
    assert scores.keys() == {"0.25", "0.5"}
    assert first["chosen"] == min(scores, key=lambda share: scores[share])
    assert second.pop("before") == first
    before, after = (
        load_rule(str(f / "weights.safetensors")).block_head.weight
        for f in (run, tmp_path / "twice")
    )
    assert torch.allclose(after, 0.5 * float(first["chosen"]) * before)


def test_no_share_beyond_one(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        shrink_rule.main(run, tmp_path / "out", shares="0.5,2", **FEW)
    assert "--shares takes numbers in (0, 1], received '0.5,2'" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
