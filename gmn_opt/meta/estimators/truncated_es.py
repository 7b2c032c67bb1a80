"""Evolution strategies over windows."""

from __future__ import annotations

from dataclasses import dataclass, field

from gmn_opt.meta.estimators.base import Window
from gmn_opt.meta.estimators.evolution import (
    EvolutionStrategy,
    Samples,
    draw_perturbations,
    own_parameters,
    run_pairs,
    twice,
)
from gmn_opt.meta.rules import Rule
from gmn_opt.meta.windows import Uniform, Windows


@dataclass(frozen=True)
class TruncatedES(EvolutionStrategy):
    """Evolution strategies over one window at a time; both signs start from the same networks.

    Unbiased for the window's smoothed loss, second-order effects included, and as short-sighted as
    truncated backpropagation: what happened before the window counts as a constant. A run goes on
    from the networks of the positive sign. (Google's learned_optimization and Vicol et al. 2021
    take the unperturbed rule there, for half as much work again.)

    A run that is asked for ``n`` networks holds ``n / 2``, and windows train each twice.
    """

    windows: Windows = field(default_factory=Uniform)
    random_offset: bool = True

    def network_count(self, most: int) -> int:
        """Half of what is asked for: each network is trained once for either sign."""
        return max(1, most // 2)

    def samples(self, rule: Rule, window: Window) -> Samples:
        """Perturb, run, compare."""
        own, pairs = own_parameters(rule), window.state.theta.shape[0]
        eps = draw_perturbations(own, pairs, self.sigma, window.generator)
        out = run_pairs(rule, window, twice(window.state), eps, self.sigma)
        state = out.state.split([pairs, pairs])[0]
        return Samples(out.slopes, eps, out.meta_loss, out.losses, state, {})
