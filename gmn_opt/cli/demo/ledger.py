"""How far the contest is, and how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gmn_opt.cli.demo.jobs import Job
from gmn_opt.cli.demo.models import MODELS


class Ledger:
    """How much of the work is done, and what the rest may take."""

    def __init__(self, steps: int) -> None:
        """Nothing done, nothing expected.

        Args:
            steps: Of every run.
        """
        self.steps = steps
        self.runs_done = self.runs = 0
        self._total = 0.0
        self._work: dict[tuple[str, str, int], float] = {}
        self._start = time.monotonic()

    def expect(self, jobs: Sequence[Job]) -> None:
        """Count these in."""
        self.runs += len(jobs)
        self._total += sum(MODELS[job.model].cost for job in jobs)

    def update(self, model: str, contestant: str, seed: int, step: int) -> None:
        """A run has done this many steps."""
        self._work[model, contestant, seed] = MODELS[model].cost * step / self.steps

    @property
    def share(self) -> float:
        """Share of the work done, 0 to 1."""
        return sum(self._work.values()) / self._total if self._total else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def time_left(self) -> str:
        """A guess in words; empty until there is something to guess from."""
        if self.share < 0.01:
            return ""
        return f"{clock(self.elapsed * (1 / self.share - 1))} left"


def clock(seconds: float) -> str:
    """Minutes and seconds: ``2:05``."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
