"""The release of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from experiments import frame, release_weights, stability
from gmn_opt.optim import LearnedRule, load_rule, save_rule
from gmn_opt.weights import card, shipped
from tasks.classification import ImageClassification

TASK = ImageClassification("mnist", 8, (6,), batch_size=8)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a run that was not trained, and of records of its weights on one small task."""
    folder = tmp_path_factory.mktemp("evaluated")
    weights = folder / "run" / "best.safetensors"
    for path in (weights, weights.with_name("weights.safetensors")):
        save_rule(path, LearnedRule())
    weights.with_name("result.json").write_text(json.dumps(RECORD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stability, "TASK", TASK)
        stability.main(str(weights), folder / "stability", steps="6", seeds=2)
        frame.write_json(folder / "compared" / "result.json", COMPARED)
        yield folder


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return record


RECORD: dict[str, Any] = {
    "command": "meta_train", "config": {"seed": 3}, "seconds": 7.2, "outer_steps": 5,
    "inner_steps": 50, "events": {}, "metric": "loss",
    "origin": {"weights": "old", "sha256": "ab12"},
    "best": {"step": 4, "score": -0.5},
    "validation": {
        "steps": 9, "tasks": {}, "score": 0.2, "initial_score": 0.3,
        "best": {"tasks": {}, "score": 0.1},
    },
    "environment": {"commit": "c", "processor": "p", "threads": 1, "torch": "t"},
}  # fmt: skip
COMPARED: dict[str, Any] = {
    "workloads": [
        {"task": "one", "steps": 500, "contestants": {
            "gmn": {"rate": None, "train_loss": [0.5, 0.7], "test_loss": [0.9, 1.0]},
            "adamw": {"rate": 0.01, "train_loss": [0.8], "test_loss": [None]},
        }},
    ],
}  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the package's folder of weights; records go beside it."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "old.safetensors").write_bytes(b"")
    (folder / "old.json").write_text('{"sha256": "ab12", "seed": 7, "commit": "d"}')
    monkeypatch.setattr(release_weights, "PACKAGE", folder)
    monkeypatch.setattr(release_weights, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(shipped, "_FOLDER", folder)
    return folder


def test_a_release(evaluated: Path, package: Path) -> None:
    release_weights.main(
        evaluated / "run", comparison=evaluated / "compared",
        stability=evaluated / "stability", name="trial", notes="in slices",
    )  # fmt: skip
    about = card("trial")
    content = (package / "trial.safetensors").read_bytes()
    assert about["sha256"] == hashlib.sha256(content).hexdigest()
    assert (about["seed"], about["notes"]) == (3, "in slices")
    assert about["origin"] == {"weights": "old", "sha256": "ab12", "seed": 7, "commit": "d"}
    assert (about["validation"]["outer_step"], about["validation"]["score"]) == (4, -0.5)
    assert about["validation"]["long_runs"]["score"] == 0.1
    steady = record_of(evaluated / "stability")["runs"]["6"]
    assert about["stability"]["runs"]["6"].keys() == steady.keys()
    assert about["stability"]["runs"]["6"]["open"]["diverged"] == steady["open"]["diverged"]
    assert not set(about["data"]["meta_trained_on"]) & set(about["data"]["never_seen"])
    assert about["comparison"] == {
        "500": {"one": {"gmn": {"rate": None, "train_loss": 0.6, "test_loss": 0.95, "seeds": 2}}}
    }
    assert load_rule("trial").config == LearnedRule().config


def test_evaluations_of_other_weights_are_refused(evaluated: Path, package: Path) -> None:
    before = sorted(package.iterdir())
    with pytest.raises(typer.Exit):
        release_weights.main(
            evaluated / "run", comparison=evaluated / "compared",
            stability=evaluated / "stability", name="trial",
            checkpoint=release_weights.Checkpoint.LAST,
        )  # fmt: skip
    assert sorted(package.iterdir()) == before
