"""A bar for the training of a predictor, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class FitProgress:
    """Told what happens; shows it if there is a bar."""

    def __init__(self, bar: Progress | None, total: int) -> None:
        self.bar = bar
        self.task = None if bar is None else bar.add_task("", total=total)

    def advance(self, member: int, epoch: int, loss: float, valid: float) -> None:
        """An epoch is done."""
        if self.bar is not None and self.task is not None:
            text = f"member {member + 1}, epoch {epoch}: loss {loss:.3f}, held out {valid:.3f}"
            self.bar.update(self.task, advance=1, description=text)

    def skip(self, epochs: int) -> None:
        """These need not be done."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, advance=epochs)


@contextmanager
def fit_progress(wanted: bool, total: int) -> Iterator[FitProgress]:
    """The bar while inside, on the error stream if that is a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not wanted or not console.is_terminal:
        yield FitProgress(None, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield FitProgress(bar, total)
