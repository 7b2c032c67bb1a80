"""Live progress: a bar in a terminal, and a line per run that ended."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.comparison.cells import Cell


class LiveView:
    """Prints above a bar that says what is running; where there is no terminal, lines alone."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None)
        self._of = (0, 0)

    def __enter__(self) -> Self:
        """Start showing."""
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._progress.__exit__(kind, error, trace)

    def running(self, cells: list[Cell], total: int, done: int) -> None:
        """These cells are being run."""
        self._of = (done, total)
        text = "; ".join(map(str, cells[:2])) + ("; ..." if len(cells) > 2 else "")
        self._progress.update(self._bar, total=total, completed=done, description=text)

    def done(self, cell: Cell, record: dict[str, Any]) -> None:
        """A cell has ended."""
        loss = record["train_loss"]
        said = "no number" if loss is None else f"{loss:.4g}"
        extra = ", diverged" if record["diverged"] else ""
        seconds = record["curve"]["seconds"][-1]
        done, total = self._of
        self._console.print(
            f"{done + 1}/{total} {cell}: {said}{extra}, {seconds:.1f} s", markup=False
        )

    def failed(self, cell: Cell, error: BaseException) -> None:
        """A cell raised."""
        self._console.print(f"{cell}: {type(error).__name__}: {error}", style="red", markup=False)
