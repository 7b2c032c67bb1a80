"""Gradient estimators: interchangeable ways to the derivative of a meta-loss."""

from __future__ import annotations

from typing import Any

from gmn_opt.codec import Choice, by_name
from gmn_opt.meta.estimators.base import Estimate, GradientEstimator, Memory, Window
from gmn_opt.meta.estimators.evolution import EvolutionStrategy, Samples
from gmn_opt.meta.estimators.full_backprop import FullBackprop
from gmn_opt.meta.estimators.full_es import FullES
from gmn_opt.meta.estimators.mixture import Mixture
from gmn_opt.meta.estimators.persistent_es import PersistentES
from gmn_opt.meta.estimators.truncated_backprop import TruncatedBackprop
from gmn_opt.meta.estimators.truncated_es import TruncatedES

ESTIMATORS: dict[str, Any] = by_name(
    (FullBackprop, TruncatedBackprop, PersistentES, TruncatedES, FullES, Mixture)
)
_CHOICE = Choice(GradientEstimator, "name", "estimator", ESTIMATORS)


def make_estimator(values: Any) -> GradientEstimator:
    """The inverse of :meth:`GradientEstimator.to_dict`.

    Raises ValueError for another estimator than those of this package, and unknown settings.
    """
    made: GradientEstimator = _CHOICE.decode(values)
    return made


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
