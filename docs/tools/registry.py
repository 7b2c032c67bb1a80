"""What makers of tables share: their registry, records, and how numbers are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments/results"
TABLES: dict[str, Callable[[], str]] = {}
Made = Callable[[], str]


def table(function: Made) -> Made:
    """Register a table under the function's name."""
    TABLES[function.__name__] = function
    return function


def read(name: str) -> Any:
    """A record."""
    return json.loads((RESULTS / name).read_text("utf-8"))


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table; columns behind the first ``words`` hold numbers."""
    rule = ["---"] * words + ["--:"] * (len(header) - words)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]]) + "\n"


def loss(value: float) -> str:
    """Three digits; powers of ten where it is small."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.1e}"
