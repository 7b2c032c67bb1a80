"""Choosing AdamW's best constant rate, and growing the grid when the best lies at its edge."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gmn_opt.cli.demo.contestants import RATES, format_rate

_LADDER = (1.0, 3.0)


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
