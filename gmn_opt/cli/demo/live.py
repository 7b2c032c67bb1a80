"""What is seen while the contest runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gmn_opt.cli.demo.contestants import LEARNED
from gmn_opt.cli.demo.jobs import Job
from gmn_opt.cli.demo.ledger import Ledger, clock
from gmn_opt.cli.demo.models import MODELS
from gmn_opt.cli.demo.sparkline import sparkline
from gmn_opt.cli.demo.training import Progress, RunResult
from gmn_opt.cli.demo.verdict import format_loss

_WIDTH = 24
_REFRESH = 4


class View(Protocol):
    """Something that is told how the contest goes; used as a context manager."""

    def __enter__(self) -> Self:
        """Start showing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing."""

    def expect(self, jobs: Sequence[Job]) -> None:
        """These runs are to come."""

    def progress(self, progress: Progress) -> None:
        """A run got further."""

    def done(self, result: RunResult) -> None:
        """A run is complete."""


def make_view(console: Console, steps: int) -> View:
    """The live view if the console is a terminal that can take it, else plain lines."""
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveView(console, steps) if live else PlainView(console, steps)


@dataclass
class _Row:
    """A line of the live table: a learned contestant, or all AdamW rates together."""

    title: str
    curves: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    running: tuple[str, int] | None = None
    runs: int = 0
    runs_done: int = 0

    @property
    def points(self) -> list[tuple[float, float]]:
        """The curve to show."""
        return self.curves[self.running] if self.running else []

    def extend(self, run: tuple[str, int], share: float, loss: float) -> None:
        """Add a point to a run's curve, and show that run if the one shown is complete."""
        self.curves.setdefault(run, []).append((share, loss))
        if self.running is None or self.points[-1][0] >= 1:
            self.running = run

    @property
    def shown(self) -> str:
        """The lowest mean final loss so far, else the loss of the moment."""
        if self.losses:
            means = [sum(values) / len(values) for values in self.losses.values()]
            return format_loss(min(means))
        return format_loss(self.points[-1][1]) if self.points else ""


class LiveView:
    """A progress bar, and per model a row per contestant with its loss curve in one line."""

    def __init__(self, console: Console, steps: int) -> None:
        """Show nothing yet."""
        self._console = console
        self._unicode = console.encoding.lower().startswith("utf")
        self._ledger = Ledger(steps)
        self._rows: dict[str, dict[str, _Row]] = {}
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=_REFRESH,
            transient=True,
        )

    def __enter__(self) -> Self:
        """Start showing."""
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clear the view; what remains is printed by the report."""
        self._live.__exit__(kind, error, trace)

    def expect(self, jobs: Sequence[Job]) -> None:
        """Make room for these runs."""
        self._ledger.expect(jobs)
        for job in jobs:
            rows = self._rows.setdefault(job.model, {})
            key, title = _row_of(job.contestant.name)
            rows.setdefault(key, _Row(title)).runs += 1

    def progress(self, progress: Progress) -> None:
        """Draw the point."""
        self._ledger.update(progress.model, progress.contestant, progress.seed, progress.step)
        row = self._rows[progress.model][_row_of(progress.contestant)[0]]
        share = progress.step / self._ledger.steps
        row.extend((progress.contestant, progress.seed), share, progress.loss)

    def done(self, result: RunResult) -> None:
        """Note the final loss."""
        self._ledger.runs_done += 1
        steps = self._ledger.steps
        self._ledger.update(result.model, result.contestant, result.seed, steps)
        row = self._rows[result.model][_row_of(result.contestant)[0]]
        row.runs_done += 1
        row.losses.setdefault(result.contestant, []).append(result.final_loss)

    def _render(self) -> RenderableType:
        ledger = self._ledger
        head = Table.grid(padding=(0, 1))
        head.add_row(
            ProgressBar(total=1.0, completed=ledger.share, width=30),
            f"{ledger.share:4.0%}",
            f"[dim]{ledger.runs_done} of {ledger.runs} runs, {clock(ledger.elapsed)}[/]",
            ledger.time_left,
        )
        return Group(head, *(self._model_table(model) for model in self._rows))

    def _model_table(self, model: str) -> Table:
        rows = self._rows[model].values()
        points = (point for row in rows for curve in row.curves.values() for point in curve)
        losses = [loss for _, loss in points if math.isfinite(loss)]
        low, high = (min(losses), max(losses)) if losses else (1.0, 2.0)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column(MODELS[model].title, width=26, no_wrap=True)
        table.add_column("loss, log scale", width=_WIDTH, no_wrap=True)
        table.add_column("train", width=8, justify="right", no_wrap=True)
        table.add_column("runs", width=6, justify="right", no_wrap=True)
        for row in rows:
            line = sparkline(row.points, _WIDTH, low, high, unicode=self._unicode)
            count = Text(f"{row.runs_done}/{row.runs}", style="dim")
            table.add_row(row.title, Text(line, style="cyan"), row.shown, count)
        return table


class PlainView:
    """A line per completed run, for logs and pipes."""

    def __init__(self, console: Console, steps: int) -> None:
        """Nothing to show yet."""
        self._console = console
        self._ledger = Ledger(steps)

    def __enter__(self) -> Self:
        """Nothing to set up."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to put away."""

    def expect(self, jobs: Sequence[Job]) -> None:
        """Count these in."""
        self._ledger.expect(jobs)

    def progress(self, progress: Progress) -> None:
        """Only the time left is reckoned from it."""
        self._ledger.update(progress.model, progress.contestant, progress.seed, progress.step)

    def done(self, result: RunResult) -> None:
        """Print the line."""
        ledger = self._ledger
        ledger.runs_done += 1
        ledger.update(result.model, result.contestant, result.seed, ledger.steps)
        line = (
            f"{ledger.runs_done:3d}/{ledger.runs} {result.model} {result.contestant:<16} "
            f"seed {result.seed}  train {format_loss(result.final_loss):>8}  "
            f"test {result.test_accuracy:5.1%}  {result.seconds:5.1f} s"
        )
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _row_of(contestant: str) -> tuple[str, str]:
    """Which row shows a contestant, and the row's title."""
    for learned in LEARNED:
        if learned.name == contestant:
            return learned.name, learned.title
    return "adamw", "AdamW, rates of the grid"
