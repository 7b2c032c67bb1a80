"""Persistent evolution strategies."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from gmn_opt.meta.estimators.base import Memory, Window
from gmn_opt.meta.estimators.evolution import (
    EvolutionStrategy,
    Samples,
    draw_perturbations,
    own_parameters,
    run_pairs,
    twice,
)
from gmn_opt.meta.rules import Rule
from gmn_opt.meta.task import Task
from gmn_opt.meta.unroll import InnerState
from gmn_opt.meta.windows import Uniform, Windows

_ACCUMULATED = "accumulated"


@dataclass(frozen=True)
class PersistentES(EvolutionStrategy):
    """Unbiased over whole runs, at the price of one window at a time.

    Vicol, Metz and Sohl-Dickstein 2021 (arXiv 2112.13835), algorithm 2. Both networks of a pair
    keep training with the rule as it was perturbed for them, a new perturbation in every window;
    a window's loss multiplies the *sum* of all perturbations since the run began, so that it also
    tells what earlier updates did. Variance grows with the number of windows: use it where runs are
    long and meta-parameters few.

    A run that is asked for ``n`` networks holds ``n / 2`` pairs.
    """

    windows: Windows = field(default_factory=Uniform)
    random_offset: bool = True

    def network_count(self, most: int) -> int:
        """An even number: pairs."""
        return 2 * max(1, most // 2)

    def start(
        self, rule: Rule, task: Task, count: int, generator: torch.Generator
    ) -> tuple[InnerState, Memory]:
        """``count / 2`` pairs of equal networks, and nothing accumulated."""
        if count % 2:
            raise ValueError(f"Pairs need an even number of networks, received {count}.")
        own = own_parameters(rule)
        like = next(iter(own.values()))
        total = sum(p.numel() for p in own.values())
        state = twice(InnerState.initial(task, count // 2, generator, rule.moment_names))
        return state, {_ACCUMULATED: like.new_zeros(count // 2, total)}

    def samples(self, rule: Rule, window: Window) -> Samples:
        """Perturb, run, compare; credit all perturbations so far."""
        if _ACCUMULATED not in window.memory:
            raise ValueError(
                f"PersistentES needs what it accumulated over the run, received a window that "
                f"remembers {sorted(window.memory)}. Begin runs with start() and pass the memory "
                "of each estimate to the next window."
            )
        own, pairs = own_parameters(rule), window.state.theta.shape[0] // 2
        eps = draw_perturbations(own, pairs, self.sigma, window.generator)
        out = run_pairs(rule, window, window.state, eps, self.sigma)
        accumulated = window.memory[_ACCUMULATED] + eps
        memory = {_ACCUMULATED: accumulated}
        return Samples(out.slopes, accumulated, out.meta_loss, out.losses, out.state, memory)
