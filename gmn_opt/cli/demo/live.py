"""What is seen while the contest runs: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gmn_opt.cli.bars import Bars
from gmn_opt.cli.contest import LEARNED
from gmn_opt.cli.demo.jobs import Job
from gmn_opt.cli.demo.models import MODELS
from gmn_opt.cli.demo.training import Progress as Point
from gmn_opt.cli.demo.training import RunResult
from gmn_opt.cli.demo.verdict import format_loss

_GRID = "AdamW, rates of the grid"


class View(Bars):
    """Shows how the contest goes.

    In a terminal that can take it, a bar for everything and one per model and contestant (all
    AdamW rates share one) with its lowest mean final loss, or the loss of the moment. Elsewhere a
    line per completed run.
    """

    def __init__(self, console: Console, steps: int) -> None:
        """``steps``: of every run."""
        super().__init__(
            console,
            TextColumn("{task.description}"),
            BarColumn(12),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[loss]}", justify="right"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._steps = steps
        self._all = self.bars.add_task("all runs", total=0.0, loss="")
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._losses: dict[tuple[str, str], dict[str, list[float]]] = {}
        self._done: dict[tuple[str, str, int], int] = {}
        self._runs = self._runs_done = 0

    def expect(self, jobs: Sequence[Job]) -> None:
        """These runs are to come."""
        self._runs += len(jobs)
        for job in jobs:
            row = _row_of(job.model, job.contestant.name)
            if row not in self._bars:
                self._bars[row] = self.bars.add_task(" ".join(row), total=0.0, loss="")
            self._extend(self._bars[row], self._steps)
            self._extend(self._all, self._steps * MODELS[job.model].cost)

    def _extend(self, bar: TaskID, work: float) -> None:
        task = next(t for t in self.bars.tasks if t.id == bar)
        self.bars.update(bar, total=(task.total or 0.0) + work)

    def progress(self, point: Point) -> None:
        """A run got further."""
        self._advance(point.model, point.contestant, point.seed, point.step)
        row = _row_of(point.model, point.contestant)
        if row not in self._losses:
            self.bars.update(self._bars[row], loss=format_loss(point.loss))

    def done(self, result: RunResult) -> None:
        """A run is complete."""
        self._runs_done += 1
        self._advance(result.model, result.contestant, result.seed, self._steps)
        row = _row_of(result.model, result.contestant)
        found = self._losses.setdefault(row, {})
        found.setdefault(result.contestant, []).append(result.final_loss)
        self.bars.update(self._bars[row], loss=format_loss(min(map(fmean, found.values()))))
        if not self.live:
            line = (
                f"{self._runs_done:3d}/{self._runs} {result.model} {result.contestant:<16} "
                f"seed {result.seed}  train {format_loss(result.final_loss):>8}  "
                f"test {result.test_accuracy:5.1%}  {result.seconds:5.1f} s"
            )
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _advance(self, model: str, contestant: str, seed: int, step: int) -> None:
        run = model, contestant, seed
        further = step - self._done.get(run, 0)
        self._done[run] = step
        self.bars.advance(self._bars[_row_of(model, contestant)], further)
        self.bars.advance(self._all, further * MODELS[model].cost)


def _row_of(model: str, contestant: str) -> tuple[str, str]:
    """The bar of a run: its model, and the contestant's title."""
    return model, next((c.title for c in LEARNED if c.name == contestant), _GRID)
