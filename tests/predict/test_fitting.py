"""Predictors learn, stop early, and go on where they stopped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.predict import (
    NetworkError,
    Predictor,
    Recipe,
    TreePredictor,
    fit_predictor,
    training,
)
from tests.predict.population import INPUTS, population

SHORT = Recipe(members=2, epochs=2)


@pytest.fixture(scope="module")
def fitted() -> Predictor:
    """A predictor of the scale of weights."""
    models, targets = population(96)
    made = fit_predictor(
        models, targets, example_inputs=INPUTS, recipe=Recipe(members=1, epochs=25)
    )
    assert isinstance(made, Predictor)
    return made


def test_it_learns(fitted: Predictor) -> None:
    models, targets = population(40, seed=1)
    found = fitted.score(models, targets)
    assert found["r2"] > 0.9
    assert found["tau"] > 0.75


def test_it_is_right_on_its_own_training_set(fitted: Predictor) -> None:
    models, targets = population(96)
    assert fitted.score(models, targets)["r2"] > 0.9


def test_one_network_or_many(fitted: Predictor) -> None:
    models, _ = population(12)
    together = fitted.predict(models)
    alone = torch.cat([fitted.predict([m]) for m in models])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert fitted.embed(models).shape == (12, 64)


@pytest.mark.parametrize("kind", ["graph", "statnn", "deepsets", "dmc"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    models, targets = population(24)
    made = fit_predictor(models, targets, example_inputs=INPUTS, recipe=SHORT, kind=kind)
    assert isinstance(made, Predictor)
    made.save(tmp_path / "p.safetensors")
    back = Predictor.load(tmp_path / "p.safetensors", example_inputs=INPUTS)
    assert torch.equal(back.predict(models), made.predict(models))
    assert back.record == made.record


@pytest.mark.parametrize("kind", ["trees", "forest"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_trees(kind: str, loss: str) -> None:
    models, targets = population(48)
    wanted = (targets > 0).long() if loss == "cross_entropy" else targets
    made = fit_predictor(models, wanted, example_inputs=INPUTS, kind=kind, loss=loss)
    assert isinstance(made, TreePredictor)
    score = made.score(models, wanted)
    assert min(score.values()) > 0.8


def test_classes() -> None:
    models, targets = population(96)
    made = fit_predictor(
        models, (targets > 0).long(), example_inputs=INPUTS, loss="cross_entropy",
        recipe=Recipe(members=1, epochs=12),
    )  # fmt: skip
    others, values = population(40, seed=1)
    assert made.score(others, (values > 0).long())["accuracy"] > 0.85
    torch.testing.assert_close(made.predict(others).sum(1), torch.ones(40))


def test_order() -> None:
    models, targets = population(96)
    made = fit_predictor(
        models, targets, example_inputs=INPUTS, loss="rank", recipe=Recipe(members=1, epochs=12)
    )
    others, values = population(40, seed=1)
    assert made.score(others, values)["tau"] > 0.75


def test_columns() -> None:
    models, targets = population(24)
    both = torch.stack([targets, -targets], 1)
    made = fit_predictor(models, both, example_inputs=INPUTS, recipe=SHORT)
    assert made.predict(models).shape == (24, 2)


def test_it_stops_when_nothing_gets_better(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.0, 0.5, 0.6, 0.7, 0.8, 0.1])
    monkeypatch.setattr(training.MemberFit, "_validate", lambda self: next(losses))
    models, targets = population(24)
    made = fit_predictor(
        models, targets, example_inputs=INPUTS, recipe=Recipe(members=1, epochs=9, patience=2)
    )
    assert isinstance(made, Predictor)
    (member,) = made.record["members"]
    assert member.pop("seconds") > 0
    assert member == {"epochs": 4, "best_epoch": 1, "valid_loss": 0.5}


def test_resumed_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, targets = population(24)
    given: dict[str, Any] = {"example_inputs": INPUTS, "recipe": Recipe(members=2, epochs=3)}
    whole = fit_predictor(models, targets, **given)
    kept, epoch = tmp_path / "state.pt", training.MemberFit._epoch
    calls: list[None] = []

    def breaking(self: Any, *args: Any) -> float:
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(training.MemberFit, "_epoch", breaking)
    with pytest.raises(KeyboardInterrupt):
        fit_predictor(models, targets, out=kept, **given)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has the state of a training"):
        fit_predictor(models, targets, out=kept, **given)
    with pytest.raises(ValueError, match="begun with other settings"):
        fit_predictor(models, targets, out=kept, resume=True, seed=1, **given)
    others: dict[str, tuple[list[nn.Module], Tensor, dict[str, Any]]] = {
        "targets": (models, targets + 1e-6, {}),
        "networks": (models[1:] + models[:1], targets, {}),
        "covariates": (models, targets, {"covariates": torch.ones(24, 1)}),
    }
    for what, (networks, numbers, more) in others.items():
        said = "other settings" if what == "covariates" else "other networks, targets or covar"
        with pytest.raises(ValueError, match=said):  # the model reads no covariates so far
            fit_predictor(networks, numbers, out=kept, resume=True, **more, **given)
    resumed = fit_predictor(models, targets, out=kept, resume=True, **given)
    assert torch.equal(resumed.predict(models), whole.predict(models))
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(ValueError, match="no whole state"):
        fit_predictor(models, targets, out=kept, resume=True, **given)


def test_other_covariates_are_noticed(tmp_path: Path) -> None:
    models, targets = population(24)
    given: dict[str, Any] = {"example_inputs": INPUTS, "recipe": Recipe(members=1, epochs=1)}
    known = torch.arange(24.0).unsqueeze(1)
    fit_predictor(models, targets, out=tmp_path / "state.pt", covariates=known, **given)
    again: dict[str, Any] = {"out": tmp_path / "state.pt", "resume": True, **given}
    fit_predictor(models, targets, covariates=known, **again)
    with pytest.raises(ValueError, match="other networks, targets or covariates"):
        fit_predictor(models, targets, covariates=known.flip(0), **again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "oracle"}, "Unknown kind 'oracle'"),
        ({"loss": "mae"}, "Unknown loss 'mae'"),
        ({"valid": 0.0}, "valid=0.0"),
        ({"minutes": -1.0}, "minutes=-1.0"),
        ({"targets": torch.zeros(23)}, "received 24 networks and 23 targets"),
        ({"targets": torch.zeros(24)}, "all training networks are the same"),
        ({"targets": torch.full((24,), math.nan)}, r"networks \[0, 1"),
        ({"targets": ["good"] * 24}, "Targets must be numbers"),
        ({"targets": torch.randn(24), "loss": "cross_entropy"}, "whole class numbers"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    models, targets = population(24)
    given: dict[str, Any] = {"targets": targets, "example_inputs": INPUTS, **change}
    with pytest.raises(ValueError, match=message):
        fit_predictor(models, given.pop("targets"), **given)


def test_weights_that_are_all_the_same(fitted: Predictor) -> None:
    model = population(1)[0][0]
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.fill_(number % 2)
    assert bool(fitted.predict([model]).isfinite().all())


def test_a_network_that_is_broken_is_named() -> None:
    models, targets = population(24)
    with torch.no_grad():
        next(models[7].parameters()).fill_(math.nan)
    with pytest.raises(NetworkError, match=r"Network 7 of 24: 0.weight has \d+ of \d+ values"):
        fit_predictor(models, targets, example_inputs=INPUTS)
    with pytest.raises(NetworkError, match="no example inputs"):
        fit_predictor(models, targets)
    models[7] = nn.Identity()
    with pytest.raises(NetworkError, match="Network 7 of 24"):
        fit_predictor(models, targets, example_inputs=INPUTS)
