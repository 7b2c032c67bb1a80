"""Backpropagation through whole runs."""

from __future__ import annotations

from dataclasses import dataclass

from gmn_opt.meta.estimators.backprop import backpropagate
from gmn_opt.meta.estimators.base import Estimate, GradientEstimator, Window
from gmn_opt.meta.rules import Rule


@dataclass(frozen=True)
class FullBackprop(GradientEstimator):
    """Differentiates through a run from its first step to its last.

    Unbiased with ``second_order``. Over long runs the loss surface is so rough that gradients
    explode (Metz et al. 2019, arXiv 1810.10180): keep horizons short, or prefer PES.

    Attributes:
        second_order: True for the exact derivative, see :class:`TruncatedBackprop`.
        chunk: inner steps between activation checkpoints. Memory holds the activations of one
            chunk and the states between chunks; the forward pass is computed twice. None keeps all
            activations.
    """

    second_order: bool = True
    chunk: int | None = 10

    def estimate(self, rule: Rule, window: Window) -> Estimate:
        """Differentiate the run."""
        return backpropagate(rule, window, self.second_order, self.chunk)
