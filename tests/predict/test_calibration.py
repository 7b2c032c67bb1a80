"""Intervals cover what they say, and what is unlike the networks seen is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gmn_opt.predict import (
    CalibratedPredictor,
    Estimate,
    Predictor,
    Recipe,
    calibrate,
    fit_predictor,
    predict_accuracy,
)
from gmn_opt.weights import WeightsError
from tests.predict.population import INPUTS, mlp, population


@pytest.fixture(scope="module")
def calibrated() -> CalibratedPredictor:
    """Of the scale of weights, calibrated on 100 networks."""
    models, targets = population(96)
    made = fit_predictor(models, targets, example_inputs=INPUTS, recipe=Recipe(2, epochs=8))
    assert isinstance(made, Predictor)
    others, values = population(100, seed=1)
    return calibrate(made, models, others, values)


def test_coverage(calibrated: CalibratedPredictor) -> None:
    others, values = population(200, seed=2)
    for coverage in (0.5, 0.9):
        found = calibrated.estimate(others, coverage=coverage)
        inside = [e.low <= v <= e.high for e, v in zip(found, values.tolist(), strict=True)]
        # with 100 and 200 networks, the share has a deviation of 0.06 at 0.5 and 0.04 at 0.9
        assert sum(inside) / len(inside) == pytest.approx(coverage, abs=0.12)
    assert sum(e.unusual for e in found) < 20


def test_other_networks_are_unusual(calibrated: CalibratedPredictor) -> None:
    strange = mlp(60, 3)
    with torch.no_grad():
        for p in strange.parameters():
            p.copy_(100 * torch.rand_like(p) ** 8)
    (estimate,) = calibrated.estimate([strange])
    assert estimate.unusual
    assert "unlike the networks that were seen" in str(estimate)


def test_bounds_and_lines() -> None:
    estimate = Estimate(0.5, 0.4, 0.6, 0.9, 0.5)
    assert str(estimate) == "0.500 (90% interval 0.400 to 0.600)"
    assert Estimate(0.5, 0.4, 0.6, 0.9, float("nan")).unusual


def test_saved_and_loaded(calibrated: CalibratedPredictor, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    calibrated.bounds = (-0.5, 0.5)
    calibrated.save(path)
    models, _ = population(6, seed=3)
    found = calibrated.estimate(models)
    back = CalibratedPredictor.load(path)
    assert back.estimate(models, example_inputs=INPUTS) == found
    assert all(-0.5 <= e.low <= e.value <= e.high <= 0.5 for e in found)
    assert predict_accuracy(models[0], *INPUTS, weights=path).value == found[0].value
    calibrated.predictor.save(path)
    with pytest.raises(WeightsError, match="holds weights of a predictor"):
        CalibratedPredictor.load(path)


def test_refusals(calibrated: CalibratedPredictor) -> None:
    models, targets = population(30)
    with pytest.raises(ValueError, match="at most 0.990 with 100 held-out networks"):
        calibrated.estimate(models, coverage=0.999)
    with pytest.raises(ValueError, match="At least 20 held-out"):
        calibrate(calibrated.predictor, models, models[:5], targets[:5])
    rival = fit_predictor(
        models, targets, example_inputs=INPUTS, recipe=Recipe(1, epochs=1), kind="statnn"
    )
    assert isinstance(rival, Predictor)
    with pytest.raises(ValueError, match="Only predictors of one number with kind='graph'"):
        calibrate(rival, models, models, targets)
    with pytest.raises(WeightsError, match="No weights named 'none'"):
        predict_accuracy(nn.Linear(3, 2), *INPUTS, weights="none")
