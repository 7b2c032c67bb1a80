"""The settings of estimators as plain values."""

from __future__ import annotations

from typing import Any

import pytest

from gmn_opt.meta.estimators import (
    FullBackprop,
    FullES,
    GradientEstimator,
    Mixture,
    PersistentES,
    TruncatedBackprop,
    TruncatedES,
    make_estimator,
)
from gmn_opt.meta.windows import Constant, Growing, LogUniform


@pytest.mark.parametrize(
    "estimator",
    [
        FullBackprop(False, 7),
        TruncatedBackprop(Growing(4, 40, 0.5), True, True, 5),
        PersistentES(0.1, LogUniform(2, 9), False),
        TruncatedES(0.2, Constant(3)),
        FullES(0.3),
        Mixture((TruncatedBackprop(), TruncatedES()), (1.0, 2.0)),
    ],
)
def test_settings_survive_json(estimator: GradientEstimator) -> None:
    import json

    assert make_estimator(json.loads(json.dumps(estimator.to_dict()))) == estimator


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "Guess"}, "Unknown estimator"),
        ("FullES", "Unknown estimator"),
        ({"name": "FullES", "colour": 1}, r"Unknown settings \['colour'\] of FullES"),
        ({"name": "FullES", "sigma": 0.0}, "must be positive, received 0.0"),
        ({"name": "TruncatedES", "windows": {"kind": "Odd"}}, "Unknown windows"),
        ({"name": "TruncatedES", "windows": {"kind": "Constant", "a": 1}}, "of Constant; known"),
    ],
)
def test_unknown_settings_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_estimator(values)
