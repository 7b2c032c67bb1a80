"""``predict_accuracy``: the predictor that ships with the package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from gmn_opt.predict.calibration import CalibratedPredictor, Estimate
from gmn_opt.weights import find

#: Name of the shipped predictor.
DEFAULT = "accuracy"


def predict_accuracy(
    model: nn.Module,
    *example_inputs: Any,
    coverage: float = 0.9,
    weights: str | Path | CalibratedPredictor = DEFAULT,
) -> Estimate:
    """Estimate the test accuracy of a small image classifier from its weights alone.

    The shipped predictor was trained on small classifiers of MNIST and Fashion-MNIST
    (``gmn-opt weights show accuracy``); an estimate is `Estimate.unusual` where a model is
    unlike them, and then means little. Running statistics of batch norms are not looked at.

    Args:
        model: Any module, its weights loaded.
        example_inputs: What it is called with when it is traced.
        coverage: Of the interval.
        weights: Name of a shipped predictor, a file of `CalibratedPredictor.save` or a folder with
            one, or a predictor.

    Raises:
        NetworkError: A model that cannot be traced, has no parameters, or NaN in its weights.
        WeightsError: There is no such predictor.
        ValueError: A coverage that cannot be.
    """
    predictor = weights if isinstance(weights, CalibratedPredictor) else _loaded(str(weights))
    (estimate,) = predictor.estimate([model], coverage=coverage, example_inputs=example_inputs)
    return estimate


@cache
def _loaded(weights: str) -> CalibratedPredictor:
    return CalibratedPredictor.load(find(weights))
