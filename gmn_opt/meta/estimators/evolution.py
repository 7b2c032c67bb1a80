"""What all evolution strategies share: antithetic pairs of perturbed rules, run side by side.

The smoothed meta-loss ``E[L(phi + eps)]``, eps ~ N(0, sigma^2 I), has the gradient
``E[eps L(phi + eps)] / sigma^2``, which needs values of L only (Salimans et al. 2017, arXiv
1703.03864). We always draw antithetic pairs (phi + eps, phi - eps), both on the same networks and
data, which takes most of the noise away: ``eps (L+ - L-) / (2 sigma^2)``.

Every pair has its own eps and its own two networks; all networks of a run make one batch, in which
network ``i`` and network ``i + pairs`` are a pair. Nothing is differentiated, so memory does not
grow with the window, and the loss may have jumps.

Losses are weighted like those of :func:`gmn_opt.meta.unroll`, with one scale per pair: 1 / mean
loss of both. It is even in eps, so it adds no bias of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmn_opt.meta.estimators.base import Estimate, GradientEstimator, Memory, Window
from gmn_opt.meta.rules import (
    MetaParameters,
    Rule,
    StackedRule,
    flat_vector,
    named_like,
)
from gmn_opt.meta.unroll import InnerState, relative_scale, step_weights, unroll


@dataclass(frozen=True)
class Samples:
    """An estimate before it is averaged.

    slopes: ``[pairs]``, (L+ - L-) / (2 sigma^2); directions: ``[pairs, M]``, what each slope
    multiplies; the rest as in :class:`Estimate`.
    """

    slopes: Tensor
    directions: Tensor
    meta_loss: Tensor
    losses: Tensor
    state: InnerState
    memory: Memory


def own_parameters(rule: Rule) -> MetaParameters:
    """A rule's parameters, detached."""
    return {name: p.detach() for name, p in rule.named_parameters()}


def twice(state: InnerState) -> InnerState:
    """Each network once for either sign."""
    return InnerState.join([state, state])


def draw_perturbations(
    own: MetaParameters, pairs: int, sigma: float, generator: torch.Generator
) -> Tensor:
    """``[pairs, M]`` of standard deviation ``sigma``."""
    like = next(iter(own.values()))
    count = sum(p.numel() for p in own.values())
    # drawn on the CPU, so that all devices see the same
    return (sigma * torch.randn(pairs, count, generator=generator, dtype=like.dtype)).to(like)


@dataclass(frozen=True)
class Paired:
    """Both signs of every perturbation over one window; see :func:`run_pairs`."""

    slopes: Tensor
    meta_loss: Tensor
    losses: Tensor
    state: InnerState


@torch.no_grad()
def run_pairs(rule: Rule, window: Window, paired: InnerState, eps: Tensor, sigma: float) -> Paired:
    """Run the networks ``paired`` (first all with ``+eps`` [pairs, M], then all with ``-eps``)."""
    own = own_parameters(rule)
    base = flat_vector(own)
    versions = named_like(torch.cat([base + eps, base - eps]), own)
    run = replace(window, state=paired)
    out = unroll(StackedRule(rule, versions), run, copies=2)
    pairs = eps.shape[0]
    weights = step_weights(window.steps, window.last_weight, out.losses)
    both = out.losses.unflatten(1, (2, pairs)).mean(1)
    scale = relative_scale(both, weights, window.largest_loss)  # [pairs]
    each = (out.losses[1:] * weights[:, None]).sum(0).unflatten(0, (2, pairs)) * scale
    meta_loss = (each - 1 - scale.log()).mean()
    return Paired((each[0] - each[1]) / (2 * sigma**2), meta_loss, out.losses, out.state)


@dataclass(frozen=True)
class EvolutionStrategy(GradientEstimator):
    """Common base; ``sigma`` is the standard deviation of the perturbations."""

    sigma: float = 0.01

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(
                f"sigma is a standard deviation and must be positive, received {self.sigma}."
            )

    @abstractmethod
    def samples(self, rule: Rule, window: Window) -> Samples:
        """One sample of the meta-gradient per pair."""

    def estimate(self, rule: Rule, window: Window) -> Estimate:
        """The mean of :meth:`samples`."""
        found = self.samples(rule, window)
        gradient = found.slopes @ found.directions / len(found.slopes)
        own = own_parameters(rule)
        return Estimate(
            named_like(gradient, own), found.meta_loss, found.losses, found.state, found.memory
        )
