"""Live progress: a bar in a terminal, and a line per run that ended."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.comparison.cells import Cell
from gmn_opt.cli.bars import Bars


class LiveView(Bars):
    """Prints above a bar that says what is running; where there is no terminal, lines alone."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console,
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.description}"),
        )
        self._bar = self.bars.add_task("", total=None)
        self._of = (0, 0)

    def running(self, cells: list[Cell], total: int, done: int) -> None:
        """These cells are being run."""
        self._of = (done, total)
        text = "; ".join(map(str, cells[:2])) + ("; ..." if len(cells) > 2 else "")
        self.bars.update(self._bar, total=total, completed=done, description=text)

    def done(self, cell: Cell, record: dict[str, Any]) -> None:
        """A cell has ended."""
        loss = record["train_loss"]
        said = "no number" if loss is None else f"{loss:.4g}"
        extra = ", diverged" if record["diverged"] else ""
        seconds = record["curve"]["seconds"][-1]
        done, total = self._of
        self.console.print(
            f"{done + 1}/{total} {cell}: {said}{extra}, {seconds:.1f} s", markup=False
        )

    def failed(self, cell: Cell, error: BaseException) -> None:
        """A cell raised."""
        self.console.print(f"{cell}: {type(error).__name__}: {error}", style="red", markup=False)
