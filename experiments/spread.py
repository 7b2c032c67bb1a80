"""How a mean and its spread are written, here and in the docs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev


def plus_minus(value: float, apart: float | None, digits: int = 3, sign: str = "") -> str:
    """``value ± apart``, or the value alone; with ``sign="+"`` its sign is always there."""
    text = f"{value:{sign}.{digits}f}"
    return text if apart is None else f"{text} ± {apart:.{digits}f}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation; one value alone."""
    return plus_minus(mean(values), stdev(values) if len(values) > 1 else None, digits)
