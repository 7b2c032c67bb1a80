"""Learning rate over steps."""

from __future__ import annotations

import math
from collections.abc import Callable

WARMUP = 0.05
"""Share of the steps over which a rate rises."""


def warmup_steps(steps: int) -> int:
    """How many steps the rise takes; at least one."""
    return max(1, round(WARMUP * steps))


def warmup_cosine(steps: int) -> Callable[[int], float]:
    """Factor on the rate at every step, from 0 on: a linear rise, then half a cosine to zero."""
    rise = warmup_steps(steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        share = min(1.0, (step - rise) / max(1, steps - rise))
        return 0.5 * (1 + math.cos(math.pi * share))

    return factor
