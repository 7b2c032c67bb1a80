"""Random choices that tasks are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Draw:
    """Random choices from a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        """A number between."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        """A number between, its logarithm uniform."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def width(self, low: int, high: int, multiple: int = 1) -> int:
        """A whole number between, log-uniform, both ends included."""
        drawn = int(self.log_uniform(low, high + multiple) / multiple) * multiple
        return min(max(drawn, low), high)

    def chance(self, probability: float) -> bool:
        """Whether."""
        return self.uniform(0, 1) < probability

    def of(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of several, with relative weights."""
        shares = torch.tensor(weights or [1.0] * len(options), dtype=torch.float64)
        return options[int(torch.multinomial(shares, 1, generator=self.generator))]

    def activation(self) -> str:
        """Most often the commonest."""
        return self.of(["relu", "gelu", "tanh", "silu"], [6, 2, 1, 1])

    def gain(self) -> float:
        """Mostly 1, otherwise between a half and two."""
        return round(self.log_uniform(0.5, 2.0), 3) if self.chance(0.3) else 1.0

    def images(self, sizes: Sequence[int], weights: Sequence[float]) -> dict[str, Any]:
        """A data set and a size, which the digits have only one of."""
        data = self.of(["mnist", "digits", "textures"], [0.55, 0.1, 0.35])
        return {"data": data, "size": 8 if data == "digits" else self.of(sizes, weights)}

    def label_noises(self) -> dict[str, Any]:
        """What makes a classification harder, each in some tasks; two in five are left clean.

        Networks that users train fit their data: their losses fall by orders of magnitude, which no
        noisy task shows.
        """
        if self.chance(0.4):
            return {}
        return {
            "label_noise": round(self.uniform(0, 0.3), 3) if self.chance(0.4) else 0.0,
            "pixel_noise": round(self.uniform(0, 1.2), 3) if self.chance(0.6) else 0.0,
            "overlay": round(self.uniform(0, 0.9), 3) if self.chance(0.5) else 0.0,
        }
