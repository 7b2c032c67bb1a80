"""The held-out comparison, and the release of weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

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


def test_a_comparison_and_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(held_out.SUITES, "held_out", lambda: [TASK])
    monkeypatch.setattr(stability, "TASK", TASK)
    run, out, package = (tmp_path / n for n in ("run", "held_out", "package"))
    save_rule(run / "weights.safetensors", LearnedRule())
    save_rule(run / "best.safetensors", LearnedRule())
    held_out.main(str(run / "best.safetensors"), out, steps=12, seeds=2)
    stability.main(str(run / "best.safetensors"), tmp_path / "stability", steps="6", seeds=2)
    record = json.loads((out / "result.json").read_text())
    summary = record["tasks"][TASK.name]["summary"]
    losses = summary["final_train_loss"]
    # no meta-training: the learned rule and the frozen one are the same
    assert losses["gmn"] == pytest.approx(losses["gmn, frozen"])
    outcomes = record["tasks"][TASK.name]["outcomes"]
    means = {r: sum(outcomes[f"adamw {r:g}"]["final_train_loss"]) / 2 for r in held_out.RATES}
    assert means[summary["best_rate"]] == min(means.values()) == losses["adamw best"]

    again = tmp_path / "again"
    held_out.main("default", again, steps=12, seeds=2, baselines=out)
    other = json.loads((again / "result.json").read_text())
    assert other["baselines"]["command"] == record["command"]
    found = other["tasks"][TASK.name]["outcomes"]
    assert found.keys() == outcomes.keys()
    for name, facts in outcomes.items():
        assert (found[name] == facts) == (name not in held_out.OURS)
    assert other["tasks"][TASK.name]["summary"]["final_train_loss"]["gmn"] != losses["gmn"]
    del record["tasks"][TASK.name]["outcomes"]["adamw 0.001"]  # stopped before that
    (out / "result.json").write_text(json.dumps(record))
    held_out.main("default", again, steps=12, seeds=2, baselines=out)
    whole = json.loads((again / "result.json").read_text())["tasks"][TASK.name]
    assert whole["summary"] == other["tasks"][TASK.name]["summary"]
    held_out.main("default", tmp_path / "short", steps=12, seeds=2, minutes=0.0)
    stopped = json.loads((tmp_path / "short" / "result.json").read_text())["tasks"][TASK.name]
    assert stopped == {"outcomes": {}}
    assert not (tmp_path / "short" / "curves.png").exists()
    with pytest.raises(typer.Exit):  # of another length
        held_out.main("default", tmp_path / "longer", steps=13, seeds=2, baselines=out)
    assert "this comparison asks for ['held_out', 13, 2, 2024]" in capsys.readouterr().out
    assert not (tmp_path / "longer").exists()

    (run / "result.json").write_text(
        json.dumps(
            {
                "command": "meta_train", "config": {"seed": 3}, "seconds": 7.2, "outer_steps": 5,
                "inner_steps": 50, "events": {}, "metric": "loss",
                "origin": {"weights": "old", "sha256": "ab12"},
                "best": {"step": 4, "score": -0.5},
                "validation": {
                    "steps": 9, "tasks": {}, "score": 0.2, "initial_score": 0.3,
                    "best": {"tasks": {}, "score": 0.1},
                },
                "environment": {"commit": "c", "processor": "p", "threads": 1, "torch": "t"},
            }
        )
    )  # fmt: skip
    package.mkdir()
    (package / "old.safetensors").write_bytes(b"")
    (package / "old.json").write_text('{"sha256": "ab12", "seed": 7, "commit": "d"}')
    before = sorted(package.iterdir())
    monkeypatch.setattr(release_weights, "PACKAGE", package)
    monkeypatch.setattr(release_weights, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(shipped, "_FOLDER", package)
    with pytest.raises(typer.Exit):  # other weights than those that were evaluated
        release_weights.main(
            run,
            held_out=out,
            stability=tmp_path / "stability",
            name="trial",
            checkpoint=release_weights.Checkpoint.LAST,
        )
    assert sorted(package.iterdir()) == before
    release_weights.main(
        run, held_out=out, stability=tmp_path / "stability", name="trial", notes="in slices"
    )
    about = card("trial")
    content = (package / "trial.safetensors").read_bytes()
    assert about["sha256"] == hashlib.sha256(content).hexdigest()
    assert about["seed"] == 3
    assert about["notes"] == "in slices"
    assert about["origin"] == {"weights": "old", "sha256": "ab12", "seed": 7, "commit": "d"}
    assert (about["validation"]["outer_step"], about["validation"]["score"]) == (4, -0.5)
    assert about["validation"]["long_runs"]["score"] == 0.1
    steady = json.loads((tmp_path / "stability" / "result.json").read_text())["runs"]["6"]
    assert about["stability"]["runs"]["6"].keys() == steady.keys()
    assert about["stability"]["runs"]["6"]["open"]["diverged"] == steady["open"]["diverged"]
    assert not set(about["data"]["meta_trained_on"]) & set(about["data"]["never_seen"])
    assert about["held_out"]["tasks"].keys() == {TASK.name}
    assert load_rule("trial").config == LearnedRule().config
