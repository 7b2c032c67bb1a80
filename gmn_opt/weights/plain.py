"""JSON from strangers: bounded in size, depth and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Bounds of what is read: characters, levels of nesting, digits of a whole number.
MOST_CHARACTERS = 1 << 20
MOST_LEVELS = 20
MOST_DIGITS = 18


def parse_json(text: str) -> Any:
    """The values in ``text``.

    Raises ValueError for what is no JSON, text that no terminal can print, more than
    ``MOST_CHARACTERS`` characters or ``MOST_LEVELS`` levels, and whole numbers of more than
    ``MOST_DIGITS`` digits.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters of JSON, at most {MOST_CHARACTERS:,} are read")
    try:
        values = json.loads(text, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    _check(values)
    return values


def read_json(path: Path) -> Any:
    """The values in a UTF-8 file; raises OSError, and ValueError as :func:`parse_json`."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        content = file.read(4 * MOST_CHARACTERS + 1)  # a character takes 4 bytes at most
    return parse_json(content.decode("utf-8"))


def shown(value: object, most: int = 60) -> str:
    """A stranger's value for an error message: one short line without control characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return text if len(text) <= most else text[: most - 3] + "..."


def reason(error: BaseException, most: int = 400) -> str:
    """What an error says about a stranger's file, on one line without control characters."""
    return shown(" ".join(str(error).split()), most)


def is_count(value: object, least: int = 1, most: int = 10**9) -> bool:
    """Whether ``value`` is a whole number (True is none) between the bounds."""
    return type(value) is int and least <= value <= most


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS + digits.startswith("-"):
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _check(values: Any) -> None:
    level, waiting = 0, [values]
    while waiting:
        if level > MOST_LEVELS:
            raise ValueError(f"JSON of more than {MOST_LEVELS} levels")
        below: list[Any] = []
        for value in waiting:
            if isinstance(value, str):
                value.encode("utf-8")  # half a character, written "\ud800", is a ValueError
            elif isinstance(value, list):
                below += value
            elif isinstance(value, dict):
                below += [*value, *value.values()]
        level, waiting = level + 1, below
