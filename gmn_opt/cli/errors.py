"""How commands refuse: one clear message, no traceback."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text


def fail(message: str, *, code: int = 2) -> NoReturn:
    """Print the message to the error stream and leave with this exit code."""
    line = Text("error: ", style="bold red").append(message, style="not bold default")
    Console(stderr=True).print(line, soft_wrap=True)
    raise typer.Exit(code)
