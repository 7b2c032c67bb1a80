"""A line that says what is being done, in a terminal, once something takes long."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

DELAY = 2.0
"""Seconds of silence."""

Say = Callable[[str], None]
"""Called with a line that says what is being done now."""


@contextmanager
def progress_line(
    progress: bool | Say = True, console: Console | None = None, delay: float = DELAY
) -> Iterator[Say]:
    """A function to tell what is being done now; after ``delay`` seconds a user sees it.

    Args:
        progress: Whether to show anything; or a function that gets every line at once.
        console: Where to show it; by default the error stream. Nothing is shown unless it is a
            terminal that somebody can sit at, nor under pytest.
        delay: Seconds until the line appears.
    """
    if callable(progress):
        yield progress
    elif not progress or not _attended(console):
        yield _nobody
    else:
        line = _Line(console, delay)
        try:
            yield line.say
        finally:
            line.close()


def _nobody(text: str) -> None:
    """Tell no one."""


def _attended(console: Console | None) -> bool:
    """Whether somebody may be looking. A console given on purpose is shown to under pytest too."""
    if console is not None:
        return console.file.isatty() and console.is_interactive
    return sys.stderr is not None and sys.stderr.isatty() and "PYTEST_VERSION" not in os.environ


class _Line:
    """A spinner and a text, from a while after the start until closed; then it is wiped out."""

    def __init__(self, console: Console | None, delay: float) -> None:
        self.console = console
        self.text = ""
        self.status: Status | None = None
        self.closed = False
        self.lock = threading.Lock()
        self.timer = threading.Timer(delay, self._show)
        self.timer.daemon = True
        self.timer.start()

    def say(self, text: str) -> None:
        """Replace the text."""
        from rich.text import Text

        with self.lock:
            self.text = text
            if self.status is not None:
                self.status.update(Text(text))

    def _show(self) -> None:
        from rich.console import Console
        from rich.text import Text

        with self.lock:
            console = self.console or Console(stderr=True)
            if not self.closed and console.is_interactive:
                self.status = console.status(Text(self.text))
                self.status.start()

    def close(self) -> None:
        """Take the line away."""
        self.timer.cancel()
        with self.lock:
            self.closed = True
            if self.status is not None:
                self.status.stop()
