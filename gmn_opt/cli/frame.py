"""How commands look and fail: their width, their examples, and what missing packages lead to."""

from __future__ import annotations

import shutil
from typing import Any

from rich.console import Console
from typer.core import TyperGroup

from gmn_opt.cli.errors import fail
from gmn_opt.extras import MissingExtraError

#: Wider lines are hard to read.
MOST_COLUMNS = 120
_TITLE = "Examples:"


def columns() -> int:
    """Of the terminal, as far as they are used."""
    return min(MOST_COLUMNS, shutil.get_terminal_size().columns)


def console(stderr: bool = False, **options: Any) -> Console:
    """Where tables are printed."""
    return Console(stderr=stderr, width=columns(), **options)


def examples(*commands: str) -> str:
    """What stands below the help of a command; the lines work one after another, as printed."""
    return "\n\n".join([_TITLE, *commands])


def examples_in(epilog: str | None) -> list[str]:
    """The inverse of :func:`examples`; nothing where there are none."""
    title, *commands = (epilog or "").split("\n\n")
    return commands if title == _TITLE else []


class Group(TyperGroup):
    """Commands whose help is as wide as is readable, and that say what a missing package is for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, but help pages get their width."""
        if len(args) < 2 or {"-h", "--help"} & set(args):
            from typer import rich_utils

            rich_utils.MAX_WIDTH = columns()
        found: list[str] = super().parse_args(ctx, args)
        return found

    def invoke(self, ctx: Any) -> Any:
        """As usual, but a missing extra is one line, the command that installs it."""
        try:
            return super().invoke(ctx)
        except MissingExtraError as error:
            fail(str(error))


__all__ = ["MOST_COLUMNS", "Group", "columns", "console", "examples", "examples_in"]
