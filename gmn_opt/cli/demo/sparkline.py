"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=*#%@"


def sparkline(
    points: Sequence[tuple[float, float]],
    width: int,
    low: float,
    high: float,
    *,
    unicode: bool = True,
) -> str:
    """Losses on a logarithmic scale, one character per stretch of the training.

    Args:
        points: Share of the training that is done, 0 to 1, and the positive loss there.
        width: Characters for the whole training; cells without a point stay blank.
        low: Loss of the lowest bar.
        high: Loss of the highest bar.
        unicode: Whether block characters can be printed.

    Returns:
        Exactly ``width`` characters.
    """
    bars = _BLOCKS if unicode else _ASCII
    cells = [" "] * width
    for share, loss in points:
        cell = min(width - 1, max(0, math.ceil(share * width) - 1))
        cells[cell] = bars[_level(loss, low, high, len(bars))]
    return "".join(cells)


def _level(loss: float, low: float, high: float, levels: int) -> int:
    if not math.isfinite(loss) or loss >= high:
        return levels - 1
    if loss <= low or low <= 0:
        return 0
    return min(levels - 1, int(levels * math.log(loss / low) / math.log(high / low)))
