"""The held-out comparison, and the release of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch.nn import functional as F

from experiments import held_out, release_weights, stability
from gmn_opt.meta import train_inner
from gmn_opt.metanet import blocked
from gmn_opt.optim import LearnedRule, load_rule, save_rule
from gmn_opt.weights import card, shipped
from tasks.classification import ImageClassification

TASK = ImageClassification("mnist", 8, (6,), batch_size=8)


def test_vectorized_adamw_is_adamw() -> None:
    """Against an ordinary loop over one network, from the same start and on the same batches."""
    theta, losses = held_out.train_adamw(TASK, 12, 2, 5, 1e-2)
    generator = torch.Generator().manual_seed(5)
    params = TASK.initial_params(2, generator)
    batches = [TASK.batch("inner_train", 2, generator) for _ in range(12)]
    for k in range(2):
        network = TASK.build()
        network.load_state_dict({n: p[k] for n, p in params.items()})
        opt = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for step, batch in enumerate(batches):
            loss = F.cross_entropy(network(batch["x"][k]), batch["y"][k])
            assert float(loss.detach()) == pytest.approx(float(losses[step, k]), rel=1e-4)
            opt.zero_grad()
            loss.backward()
            opt.step()
        final = blocked(TASK.graph).unflatten(theta[k])
        for name, p in network.named_parameters():
            assert torch.allclose(final[name], p, rtol=1e-3, atol=1e-5)


def test_all_contestants_start_alike() -> None:
    """From the same weights, on the same batches."""
    first = held_out.train_adamw(TASK, 1, 3, 7, 1e-3)[1]
    assert torch.allclose(train_inner(LearnedRule(), TASK, 1, 3, 7)[1], first)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a run that was not trained, and of evaluations of its weights on one small task."""
    folder = tmp_path_factory.mktemp("evaluated")
    weights = folder / "run" / "best.safetensors"
    for path in (weights, weights.with_name("weights.safetensors")):
        save_rule(path, LearnedRule())
    weights.with_name("result.json").write_text(json.dumps(RECORD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(held_out.SUITES, "held_out", lambda: [TASK])
        patch.setattr(stability, "TASK", TASK)
        held_out.main(str(weights), folder / "held_out", steps=12, seeds=2)
        stability.main(str(weights), folder / "stability", steps="6", seeds=2)
        yield folder


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return record


def test_a_comparison(evaluated: Path) -> None:
    facts = record_of(evaluated / "held_out")["tasks"][TASK.name]
    losses = facts["summary"]["final_train_loss"]
    # no meta-training: the learned rule and the frozen one are the same
    assert losses["gmn"] == pytest.approx(losses["gmn, frozen"])
    rates = {r: facts["outcomes"][f"adamw {r:g}"]["final_train_loss"] for r in held_out.RATES}
    means = {r: sum(found) / 2 for r, found in rates.items()}
    best = facts["summary"]["best_rate"]
    assert means[best] == min(means.values()) == losses["adamw best"]


def test_baselines_are_taken_from_another_comparison(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, kept = record_of(evaluated / "held_out"), tmp_path / "kept"
    facts, again = record["tasks"][TASK.name], tmp_path / "again"
    held_out.main("default", again, steps=12, seeds=2, baselines=evaluated / "held_out")
    other = record_of(again)
    assert other["baselines"]["command"] == record["command"]
    found = other["tasks"][TASK.name]["outcomes"]
    assert found.keys() == facts["outcomes"].keys()
    for name, outcome in facts["outcomes"].items():
        assert (found[name] == outcome) == (name not in held_out.OURS)
    losses = facts["summary"]["final_train_loss"]
    assert other["tasks"][TASK.name]["summary"]["final_train_loss"]["gmn"] != losses["gmn"]
    del facts["outcomes"]["adamw 0.001"]  # stopped before that: it is run now
    kept.mkdir()
    (kept / "result.json").write_text(json.dumps(record))
    held_out.main("default", again, steps=12, seeds=2, baselines=kept)
    assert record_of(again)["tasks"][TASK.name]["summary"] == (other["tasks"][TASK.name]["summary"])
    with pytest.raises(typer.Exit):  # of another length
        held_out.main("default", tmp_path / "longer", steps=13, seeds=2, baselines=kept)
    assert "this comparison asks for ['held_out', 13, 2, 2024]" in capsys.readouterr().out
    assert not (tmp_path / "longer").exists()


def test_a_comparison_that_is_stopped(evaluated: Path, tmp_path: Path) -> None:
    held_out.main("default", tmp_path, steps=12, seeds=2, minutes=0.0)
    assert record_of(tmp_path)["tasks"][TASK.name] == {"outcomes": {}}
    assert not (tmp_path / "curves.png").exists()


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


def test_a_release(evaluated: Path, package: Path, tmp_path: Path) -> None:
    compared = tmp_path / "compared"
    compared.mkdir()
    (compared / "result.json").write_text(json.dumps(COMPARED))
    release_weights.main(
        evaluated / "run", comparison=compared, held_out=evaluated / "held_out",
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
    assert about["held_out"]["tasks"].keys() == {TASK.name}
    assert about["comparison"] == {
        "500": {"one": {"gmn": {"rate": None, "train_loss": 0.6, "test_loss": 0.95, "seeds": 2}}}
    }
    assert load_rule("trial").config == LearnedRule().config


def test_evaluations_of_other_weights_are_refused(evaluated: Path, package: Path) -> None:
    before = sorted(package.iterdir())
    with pytest.raises(typer.Exit):
        release_weights.main(
            evaluated / "run", held_out=evaluated / "held_out",
            stability=evaluated / "stability", name="trial",
            checkpoint=release_weights.Checkpoint.LAST,
        )  # fmt: skip
    assert sorted(package.iterdir()) == before
