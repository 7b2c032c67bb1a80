"""How long truncation windows are, and where the first one ends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from gmn_opt.codec import Choice, by_name


@dataclass(frozen=True)
class Windows(ABC):
    """A distribution of window lengths, in inner steps."""

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not 1 <= low <= high:
            raise ValueError(
                f"A window is (shortest, longest) in inner steps, both at least 1 and in this "
                f"order; received {(low, high)}."
            )

    @property
    @abstractmethod
    def bounds(self) -> tuple[int, int]:
        """Shortest and longest window."""

    @abstractmethod
    def length(self, u: float, progress: float) -> int:
        """Quantile ``u`` in [0, 1) of the lengths at ``progress`` in [0, 1] of meta-training."""

    def draw(self, generator: torch.Generator, progress: float = 0.0) -> int:
        """A random length."""
        return self.length(float(torch.rand((), generator=generator)), progress)


@dataclass(frozen=True)
class Constant(Windows):
    """Always ``steps``."""

    steps: int = 20

    @property
    def bounds(self) -> tuple[int, int]:
        """Both are ``steps``."""
        return self.steps, self.steps

    def length(self, u: float, progress: float) -> int:
        """The same whatever comes."""
        return self.steps


@dataclass(frozen=True)
class Uniform(Windows):
    """Any length between ``shortest`` and ``longest``, all alike."""

    shortest: int = 16
    longest: int = 36

    @property
    def bounds(self) -> tuple[int, int]:
        """As they are."""
        return self.shortest, self.longest

    def length(self, u: float, progress: float) -> int:
        """Linear in ``u``."""
        return self.shortest + int(u * (self.longest - self.shortest + 1))


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Any length between ``shortest`` and ``longest``, all octaves alike (Metz et al. 2019)."""

    def length(self, u: float, progress: float) -> int:
        """Linear in ``u`` on a logarithmic scale."""
        low, high = math.log(self.shortest), math.log(self.longest + 1)
        return min(int(math.exp(low + u * (high - low)) + 1e-9), self.longest)


@dataclass(frozen=True)
class Growing(Uniform):
    """From ``shortest`` at the start of meta-training to ``longest`` at ``over`` of it.

    The length grows geometrically, as in the curriculum of Metz et al. 2019 (arXiv 1810.10180),
    and is drawn within 20 % around it.
    """

    over: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.over <= 1:
            raise ValueError(f"over is a share of meta-training in (0, 1], received {self.over}.")

    def length(self, u: float, progress: float) -> int:
        """Geometric in ``progress``."""
        low, high = math.log(self.shortest), math.log(self.longest)
        middle = math.exp(low + min(progress / self.over, 1.0) * (high - low))
        drawn = round(middle * math.exp(0.2 * (2 * u - 1)))
        return max(self.shortest, min(self.longest, drawn))


Choice(Windows, "kind", "windows", by_name((Constant, Uniform, LogUniform, Growing)))
