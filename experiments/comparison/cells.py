"""Which runs a comparison consists of, and in which order.

A cell is one run: a task, a length, an optimizer, its rate and a seed. Rates are tuned on the first
seed; the best one, and what has nothing to tune, is run with all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gmn_opt.cli.bench.contestants import Contestant


@dataclass(frozen=True)
class Cell:
    """One run; ``method`` is a key of ``METHODS``."""

    task: str
    length: int
    method: str
    rate: float | None
    seed: int

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Cell:
        """The cell that a record is about; raises KeyError for what is none."""
        return cls(*(record[name] for name in cls.__dataclass_fields__))

    def __str__(self) -> str:
        rate = "" if self.rate is None else f" {self.rate:g}"
        return f"{self.task}, {self.length} steps: {self.method}{rate}, seed {self.seed}"


Results = Mapping[Cell, Mapping[str, Any]]
"""Every cell that is done, with its record."""


def loss_of(record: Mapping[str, Any], name: str = "train_loss") -> float:
    """A final loss; infinite where it was no number."""
    value = record[name]
    return math.inf if value is None else float(value)


@dataclass(frozen=True)
class Workload:
    """A task at a length."""

    task: str
    length: int

    def cell(self, contestant: Contestant, rate: float | None, seed: int) -> Cell:
        """One run on it."""
        return Cell(self.task, self.length, contestant.method, rate, seed)

    def __str__(self) -> str:
        return f"{self.task}, {self.length} steps"


@dataclass(frozen=True)
class Plan:
    """Workloads in the order in which they are run, who takes part, and the seeds."""

    workloads: tuple[Workload, ...]
    contestants: tuple[Contestant, ...]
    seeds: tuple[int, ...]

    def best_rate(self, on: Workload, contestant: Contestant, results: Results) -> float | None:
        """The rate of the lowest training loss on the first seed.

        The only one where there is one, None where there is none; raises KeyError where the grid is
        not complete.
        """
        if not contestant.tuned:
            return contestant.rates[0] if contestant.rates else None
        losses = {
            rate: loss_of(results[on.cell(contestant, rate, self.seeds[0])])
            for rate in contestant.rates
        }
        return min(losses, key=lambda rate: losses[rate])

    def cells(self, on: Workload, results: Results) -> list[Cell]:
        """All cells of a workload that can be named so far, done or not; each once."""
        named: dict[Cell, None] = {}
        for contestant in self.contestants:
            for tried in contestant.rates if contestant.tuned else ():
                named[on.cell(contestant, tried, self.seeds[0])] = None
        for contestant in self.contestants:
            if contestant.tuned and not self._tuned(on, contestant, results):
                continue
            rate = self.best_rate(on, contestant, results)
            for seed in self.seeds:
                named[on.cell(contestant, rate, seed)] = None
        return list(named)

    def _tuned(self, on: Workload, contestant: Contestant, results: Results) -> bool:
        grid = (on.cell(contestant, rate, self.seeds[0]) for rate in contestant.rates)
        return all(cell in results for cell in grid)

    def is_complete(self, on: Workload, results: Results) -> bool:
        """Whether all that a comparison on it needs is there."""
        tuned = all(self._tuned(on, c, results) for c in self.contestants if c.tuned)
        return tuned and all(cell in results for cell in self.cells(on, results))

    def next_cell(self, results: Results, taken: Collection[Cell]) -> Cell | None:
        """The first cell in order that is neither done nor ``taken``."""
        return next(self.open_cells(results, taken), None)

    def open_cells(self, results: Results, taken: Collection[Cell] = ()) -> Iterator[Cell]:
        """Workload by workload the cells that can be run now."""
        for on in self.workloads:
            for cell in self.cells(on, results):
                if cell not in results and cell not in taken:
                    yield cell

    def total(self, results: Results) -> int:
        """How many cells there are; where a rate is not chosen yet, at most that many."""
        count = 0
        for on in self.workloads:
            later = [c for c in self.contestants if c.tuned and not self._tuned(on, c, results)]
            count += len(self.cells(on, results)) + len(later) * (len(self.seeds) - 1)
        return count


def ordered(costs: Mapping[str, float], lengths: Mapping[str, Sequence[int]]) -> list[Workload]:
    """The workloads, cheapest first; ``costs`` per step of each task."""
    found = [Workload(task, length) for task in costs for length in lengths[task]]
    return sorted(found, key=lambda w: (costs[w.task] * w.length, w.task))
