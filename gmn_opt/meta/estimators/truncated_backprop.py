"""Truncated backpropagation through the unroll."""

from __future__ import annotations

from dataclasses import dataclass, field

from gmn_opt.meta.estimators.backprop import backpropagate
from gmn_opt.meta.estimators.base import Estimate, GradientEstimator, Window
from gmn_opt.meta.rules import Rule
from gmn_opt.meta.windows import Uniform, Windows


@dataclass(frozen=True)
class TruncatedBackprop(GradientEstimator):
    """Differentiates through one window of a run; the state that it starts from is a constant.

    Cheap, and of little variance. Biased towards what pays within a window (Wu et al. 2018,
    arXiv 1803.02021): what an update does after its window is not seen.

    Attributes:
        windows: their lengths, drawn anew for every run.
        second_order: True for the exact derivative of the window's loss. False takes gradients and
            accumulators for constants (Andrychowicz et al. 2016): terms with second derivatives of
            the inner loss are missing, and a window costs one forward and backward pass of the
            inner networks per step.
        random_offset: the first window of a run ends anywhere within its length, so that not all
            runs are cut at the same steps.
        chunk: inner steps between activation checkpoints; None keeps all activations.
    """

    windows: Windows = field(default_factory=Uniform)
    second_order: bool = False
    random_offset: bool = False
    chunk: int | None = None

    def estimate(self, rule: Rule, window: Window) -> Estimate:
        """Differentiate the window."""
        return backpropagate(rule, window, self.second_order, self.chunk)
