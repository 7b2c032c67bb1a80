"""Learned rules against AdamW: who takes part, AdamW's grid of rates, and how losses compare.

The demo judges by this.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer

MakeOptimizer = Callable[[nn.Module, int], Optimizer]

DEFAULT_RATE = 1e-3
"""The learning rate that torch's AdamW has when nobody sets one."""
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_LADDER = (1.0, 3.0)


@dataclass(frozen=True)
class Contestant:
    """One way of training.

    Attributes:
        name: Short name in the record.
        title: What people read.
        make_optimizer: From the model and the number of steps; must be importable by name, so
            that worker processes can have it.
        rate: The learning rate, for those that belong to the AdamW grid.
    """

    name: str
    title: str
    make_optimizer: MakeOptimizer
    rate: float | None = None


def make_gmn(model: nn.Module, steps: int) -> Optimizer:
    """GMNOptimizer without any setting."""
    from gmn_opt.optim import GMNOptimizer

    return GMNOptimizer(model.parameters())


def make_gmn_with_horizon(model: nn.Module, steps: int) -> Optimizer:
    """GMNOptimizer that knows how long the training lasts."""
    from gmn_opt.optim import GMNOptimizer

    return GMNOptimizer(model.parameters(), total_steps=steps)


def make_gmn_initial(model: nn.Module, steps: int) -> Optimizer:
    """The same rule with the metanet's outputs as they were before meta-training."""
    from gmn_opt.optim import GMNOptimizer

    return GMNOptimizer(model.parameters(), weights="initial")


def make_adamw(model: nn.Module, steps: int, *, rate: float) -> Optimizer:
    """AdamW at a constant rate, everything else as torch has it."""
    return AdamW(model.parameters(), lr=rate)


GMN = Contestant("gmn", "GMNOptimizer", make_gmn)
GMN_HORIZON = Contestant("gmn_total_steps", "GMNOptimizer, total_steps", make_gmn_with_horizon)
GMN_INITIAL = Contestant("gmn_initial", "GMN rule, metanet frozen", make_gmn_initial)
LEARNED = (GMN, GMN_HORIZON, GMN_INITIAL)


def adamw(rate: float) -> Contestant:
    """AdamW at this rate; at `DEFAULT_RATE` this is AdamW as it comes."""
    written = format_rate(rate)
    return Contestant(f"adamw_{written}", f"AdamW {written}", partial(make_adamw, rate=rate), rate)


def format_rate(rate: float) -> str:
    """A rate the way people write it: ``3e-4``."""
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


@dataclass(frozen=True)
class Tuning:
    """What the grid gave.

    Attributes:
        losses: Mean final training loss over the seeds at every rate tried, by rising rate.
        best: The rate of the lowest.
        added: Rates that were not in the first grid.
    """

    losses: dict[float, float]
    best: float
    added: list[float] = field(default_factory=list)

    @property
    def at_edge(self) -> bool:
        """Whether nothing was tried on one side of the best rate."""
        return self.best in (min(self.losses), max(self.losses))

    @property
    def next_rate(self) -> float | None:
        """The rate to try next, one rung beyond the edge; None when the best lies inside."""
        if not self.at_edge:
            return None
        return neighbour(self.best, up=self.best == max(self.losses))

    def describe(self) -> str:
        """A sentence about the grid; says so when the best lay or lies at an edge."""
        rates = ", ".join(format_rate(rate) for rate in self.losses)
        text = f"AdamW's best of {len(self.losses)} constant rates ({rates}): "
        text += format_rate(self.best)
        if self.at_edge:
            return text + "; AT THE EDGE of the grid, a better rate may lie beyond"
        if self.added:
            added = ", ".join(format_rate(rate) for rate in self.added)
            return text + f"; the grid was EXTENDED by {added}, as its best lay at the edge"
        return text


def tune(final_losses: Mapping[float, Sequence[float]]) -> Tuning:
    """Pick the rate with the lowest mean final training loss.

    Args:
        final_losses: Per rate, the final loss of each seed.
    """
    if not final_losses:
        raise ValueError("no rates to choose from")
    losses = {rate: statistics.fmean(final_losses[rate]) for rate in sorted(final_losses)}
    best = min(losses, key=lambda rate: losses[rate])
    return Tuning(losses, best, [rate for rate in losses if rate not in RATES])


def neighbour(rate: float, *, up: bool) -> float:
    """The next rate on the ladder ... 1e-3, 3e-3, 1e-2, 3e-2 ..."""
    exponent = int(f"{rate:e}".split("e")[1])
    rungs = [float(f"{m:g}e{e}") for e in range(exponent - 1, exponent + 3) for m in _LADDER]
    beyond = [rung for rung in rungs if (rung > rate * 1.01 if up else rung < rate * 0.99)]
    return min(beyond) if up else max(beyond)


def ratios(losses: Sequence[float], rivals: Sequence[float]) -> list[float]:
    """Seed by seed; a run that diverged counts as infinitely bad, and two are a draw."""
    pairs = zip(losses, rivals, strict=True)
    return [1.0 if math.isinf(a) and math.isinf(b) else a / b if b > 0 else math.inf
            for a, b in pairs]  # fmt: skip
