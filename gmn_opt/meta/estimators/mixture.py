"""Weighted sums of estimators."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmn_opt.meta.estimators.base import Estimate, GradientEstimator, Memory, Window
from gmn_opt.meta.rules import MetaParameters, Rule
from gmn_opt.meta.task import Task
from gmn_opt.meta.unroll import InnerState
from gmn_opt.meta.windows import Windows

_NETWORKS = "networks"


@dataclass(frozen=True)
class Mixture(GradientEstimator):
    """Adds the meta-gradients of several estimators, each on networks of its own.

    A little of an unbiased estimator corrects another one's bias: Metz et al. 2019 (arXiv
    1810.10180) add reparameterization gradients and evolution strategies by their inverse
    variances; here the weights are fixed.

    Attributes:
        estimators: all of windows, or all of whole runs. Windows are drawn as by the first.
        weights: one each, not negative; used in proportion to their sum.
    """

    estimators: tuple[GradientEstimator, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.estimators or len(self.estimators) != len(self.weights):
            raise ValueError(
                f"A mixture needs one weight per estimator, received {len(self.estimators)} "
                f"estimators and {len(self.weights)} weights."
            )
        if min(self.weights) < 0 or not 0 < sum(self.weights) < math.inf:
            raise ValueError(f"Weights must not be negative, received {self.weights}.")
        if len({e.window_lengths is None for e in self.estimators}) > 1:
            kinds = [type(e).__name__ for e in self.estimators]
            raise ValueError(
                f"{kinds} differ in what they unroll: some whole runs, some windows. Mix "
                "estimators of windows with one another, or estimators of whole runs."
            )

    @property
    def window_lengths(self) -> Windows | None:
        """Those of the first estimator."""
        return self.estimators[0].window_lengths

    @property
    def random_offset(self) -> bool:
        """As the first estimator has it."""
        return bool(getattr(self.estimators[0], "random_offset", False))

    def _counts(self, most: int) -> list[int]:
        share = most // len(self.estimators)
        return [e.network_count(share) for e in self.estimators]

    def network_count(self, most: int) -> int:
        """The sum over estimators, an equal share each."""
        return sum(self._counts(most))

    def start(
        self, rule: Rule, task: Task, count: int, generator: torch.Generator
    ) -> tuple[InnerState, Memory]:
        """The networks of all estimators, one after the other."""
        memory: Memory = {}
        states = []
        for i, (estimator, share) in enumerate(
            zip(self.estimators, self._counts(count), strict=True)
        ):
            state, kept = estimator.start(rule, task, share, generator)
            states.append(state)
            memory |= {f"{i}/{name}": t for name, t in kept.items()}
        memory[_NETWORKS] = torch.tensor([s.theta.shape[0] for s in states])
        return InnerState.join(states), memory

    def estimate(self, rule: Rule, window: Window) -> Estimate:
        """The weighted sum; losses are those of all networks."""
        counts = window.memory[_NETWORKS].tolist()
        starts = window.state.split(counts)
        gradient: MetaParameters = {}
        memory: Memory = {_NETWORKS: window.memory[_NETWORKS]}
        states: list[InnerState] = []
        losses: list[Tensor] = []
        meta_loss = window.state.theta.new_zeros(())
        total = sum(self.weights)
        for i, (estimator, weight) in enumerate(zip(self.estimators, self.weights, strict=True)):
            prefix = f"{i}/"
            own = {
                name.removeprefix(prefix): t
                for name, t in window.memory.items()
                if name.startswith(prefix)
            }
            out = estimator.estimate(rule, replace(window, state=starts[i], memory=own))
            share = weight / total
            for name, g in out.gradient.items():
                gradient[name] = share * g + gradient[name] if name in gradient else share * g
            meta_loss = meta_loss + share * out.meta_loss
            memory |= {f"{prefix}{name}": t for name, t in out.memory.items()}
            states.append(out.state)
            losses.append(out.losses)
        return Estimate(gradient, meta_loss, torch.cat(losses, 1), InnerState.join(states), memory)
