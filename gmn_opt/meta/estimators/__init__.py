"""Gradient estimators: interchangeable ways to the derivative of a meta-loss."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gmn_opt.meta.estimators.base import Estimate, GradientEstimator, Memory, Window
from gmn_opt.meta.estimators.evolution import EvolutionStrategy, Samples
from gmn_opt.meta.estimators.full_backprop import FullBackprop
from gmn_opt.meta.estimators.full_es import FullES
from gmn_opt.meta.estimators.mixture import Mixture
from gmn_opt.meta.estimators.persistent_es import PersistentES
from gmn_opt.meta.estimators.truncated_backprop import TruncatedBackprop
from gmn_opt.meta.estimators.truncated_es import TruncatedES
from gmn_opt.meta.windows import window_lengths

ESTIMATORS: dict[str, type[GradientEstimator]] = {
    kind.__name__: kind
    for kind in (FullBackprop, TruncatedBackprop, PersistentES, TruncatedES, FullES, Mixture)
}


def make_estimator(values: Any) -> GradientEstimator:
    """The inverse of :meth:`GradientEstimator.to_dict`.

    Raises ValueError for another estimator than those of this package, and unknown settings.
    """
    if not isinstance(values, dict) or values.get("name") not in ESTIMATORS:
        raise ValueError(f"Unknown estimator {values!r}; known ones are {sorted(ESTIMATORS)}.")
    kind = ESTIMATORS[values["name"]]
    given = {k: v for k, v in values.items() if k != "name"}
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(given) - known):
        raise ValueError(
            f"Unknown settings {unknown} of {values['name']}; known ones are {sorted(known)}."
        )
    if isinstance(given.get("windows"), dict):
        given["windows"] = window_lengths(given["windows"])
    if "estimators" in given:
        given["estimators"] = tuple(make_estimator(v) for v in given["estimators"])
        given["weights"] = tuple(given["weights"])
    return kind(**given)


__all__ = [
    "ESTIMATORS",
    "Estimate",
    "EvolutionStrategy",
    "FullBackprop",
    "FullES",
    "GradientEstimator",
    "Memory",
    "Mixture",
    "PersistentES",
    "Samples",
    "TruncatedBackprop",
    "TruncatedES",
    "Window",
    "make_estimator",
]
