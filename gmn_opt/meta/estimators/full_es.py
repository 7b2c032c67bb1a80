"""Evolution strategies over whole runs."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class FullES(EvolutionStrategy):
    """Perturbs the rule once for a whole run (Metz et al. 2020).

    Unbiased for the smoothed loss of the run, and blind to how rough that loss is; one estimate
    costs two whole runs per pair, and its variance grows with the number of meta-parameters.

    A run that is asked for ``n`` networks holds ``n / 2``, each trained twice.
    """

    def network_count(self, most: int) -> int:
        """Half of what is asked for: each network is trained once for either sign."""
        return max(1, most // 2)

    def samples(self, rule: Rule, window: Window) -> Samples:
        """Perturb, run, compare."""
        own, pairs = own_parameters(rule), window.state.theta.shape[0]
        eps = draw_perturbations(own, pairs, self.sigma, window.generator)
        out = run_pairs(rule, window, twice(window.state), eps, self.sigma)
        return Samples(out.slopes, eps, out.meta_loss, out.losses, out.state, {})
