"""Samples that are under way during a fit: from noise to networks, a step at every step of the fit.

At its end, a path may be corrected some rounds, as samples are: it goes back a little way to the
noise that it came from, and to the end again, see :func:`back`. How many rounds is drawn for each
path, so that the field has been where any number of them leads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Steps from noise to a network on average.
_STEPS = 16
#: From where paths go to the end again.
LATE = 0.95
#: Rounds that a generator may be fitted to make.
MOST_ROUNDS = 10_000
#: In units; what is farther from zero has gone astray, and begins anew.
_FAR = 1e3


class Paths:
    """A batch of them.

    Args:
        noise: Called with int64 ``[B]``, training networks whose class the noise is to have (all of
            the same, where there are no classes) and a source of randomness; ``[B, P]`` in units.
        networks: How many training networks there are to take conditions from.
        corrections: Rounds of correction at most.

    Attributes:
        points: ``[B, P]`` in units; empty before the first step.
        begun: ``[B, P]``, the noise that they came from.
        times: How far they are, ``[B]``.
        of: int64 ``[B]``, the training networks whose conditions they have.
        rounds: int64 ``[B]``, rounds of correction to come.
        correcting: bool ``[B]``, those that are in one.
    """

    def __init__(
        self,
        noise: Callable[[Tensor, torch.Generator], Tensor],
        networks: int,
        corrections: int = 0,
    ) -> None:
        self.noise, self.networks, self.corrections = noise, networks, corrections
        self.points = self.begun = torch.zeros(0, 0)
        self.times = torch.zeros(0)
        self.of = torch.zeros(0, dtype=torch.int64)
        self.rounds = torch.zeros(0, dtype=torch.int64)
        self.correcting = torch.zeros(0, dtype=torch.bool)

    def open(self, batch: int, random: torch.Generator) -> None:
        """Begin those anew that have come to their end, or all of another number."""
        if len(self.times) != batch:
            self.times = torch.ones(batch)
            self.of, self.rounds = torch.zeros(2, batch, dtype=torch.int64)
            over = torch.ones(batch, dtype=torch.bool)
        else:
            lost = ~(self.points.abs().amax(1) < _FAR)
            over = lost | (self.times >= 1) & (self.rounds == 0)
        self.correcting = (self.times >= 1) & ~over
        self.rounds = self.rounds - self.correcting.long()
        drawn = torch.randint(self.networks, (batch,), generator=random)
        self.of = torch.where(over, drawn, self.of)
        if self.corrections:
            drawn = torch.randint(self.corrections + 1, (batch,), generator=random)
            self.rounds = torch.where(over, drawn, self.rounds)
        self.times = self.times.masked_fill(self.correcting, LATE).masked_fill(over, 0.0)
        fresh = self.noise(self.of, random)
        if len(self.points) != batch:
            self.points = self.begun = fresh
        self.begun = torch.where(over.unsqueeze(1), fresh, self.begun)
        points = torch.where(over.unsqueeze(1), fresh, self.points)
        again = back(points, self.begun)
        self.points = torch.where(self.correcting.unsqueeze(1), again, points)

    def go_on(self, velocity: Tensor, random: torch.Generator) -> None:
        """A step by ``velocity`` ``[B, P]``; in a round of correction, all that is left."""
        step = 2 / _STEPS * torch.rand(len(self.times), generator=random)
        left = 1 - self.times
        last = self.correcting | (step >= left)
        by = torch.where(last, left, step).unsqueeze(1)
        self.points = (self.points + by * velocity).detach()
        self.times = (self.times + step).masked_fill(last, 1.0)

    def state(self) -> dict[str, Tensor]:
        """What a fit that goes on needs; empty before the first step."""
        if not len(self.times):
            return {}
        names = ("points", "begun", "times", "of", "rounds")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Tensor]) -> None:
        """From :meth:`state`."""
        for name, tensor in state.items():
            setattr(self, name, tensor)


def back(ends: Tensor, begun: Tensor) -> Tensor:
    """Where straight lines from ``begun`` [B, P] to ``ends`` [B, P] are at the time ``LATE``."""
    return torch.lerp(begun, ends, LATE)


__all__ = ["LATE", "MOST_ROUNDS", "Paths", "back"]
