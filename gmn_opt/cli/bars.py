"""Bars of progress in a terminal that can take them; elsewhere a view prints lines."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn


class Bars:
    """Used as a context manager: bars while it lasts, and nothing is left of them.

    Attributes:
        console: Where everything is shown.
        live: Whether it is a terminal that can take bars.
        bars: To which tasks are added.
    """

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        """``columns``: of every bar."""
        self.console = console
        self.live = console.is_terminal and not console.is_dumb_terminal
        self.bars = Progress(*columns, console=console, transient=True, disable=not self.live)

    def __enter__(self) -> Self:
        """Start showing."""
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars away."""
        self.bars.stop()
