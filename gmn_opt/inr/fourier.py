"""An MLP on random Fourier features of the coordinates (Tancik et al. 2020, arXiv 2006.10739)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gmn_opt.inr.base import (
    Inr,
    InrConfig,
    Params,
    batched_linear,
    is_number,
    mlp_shapes,
    register,
    uniform,
)
from gmn_opt.weights.plain import is_count


@register
@dataclass(frozen=True)
class FourierConfig(InrConfig):
    """``[sin(2π B x), cos(2π B x)]``, then a ReLU MLP of the given widths.

    Attributes:
        frequencies: Rows of B; the MLP sees twice as many features.
        scale: Standard deviation of B's entries, in cycles per unit of coordinate.
        frequency_seed: B is a function of this seed, and no parameter: INRs of one config share
            it, so that their parameters are comparable.
    """

    family: ClassVar[str] = "fourier"

    frequencies: int = 32
    scale: float = 2.0
    frequency_seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that make no network."""
        super().__post_init__()
        if not is_count(self.frequencies) or not is_number(self.scale) or not self.scale > 0:
            raise ValueError(
                "A Fourier-feature MLP needs at least one frequency and a positive scale, received "
                f"frequencies={self.frequencies}, scale={self.scale}."
            )
        if not is_count(self.frequency_seed, 0, 2**32 - 1):
            raise ValueError(
                "frequency_seed must be a whole number from 0 to 2**32 - 1, received "
                f"{self.frequency_seed}."
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `InrConfig.shapes`."""
        return mlp_shapes((2 * self.frequencies, *self.widths, self.outputs))

    def build(self, generator: torch.Generator | None = None) -> FourierMLP:
        """A freshly initialized network."""
        return FourierMLP(self, generator)


class FourierMLP(Inr):
    """Fourier features and a ReLU MLP, initialized as He et al. 2015 with zero biases."""

    config: FourierConfig
    projection: Tensor

    def __init__(
        self, config: FourierConfig | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(config or FourierConfig())
        c = self.config
        # numpy keeps this legacy stream the same forever, which no other generator promises
        draws = np.random.RandomState(c.frequency_seed).randn(c.frequencies, c.inputs)
        projection = torch.from_numpy(draws * (2 * math.pi * c.scale)).float()
        self.register_buffer("projection", projection, persistent=False)
        sizes = (2 * c.frequencies, *c.widths, c.outputs)
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(sizes))
        self.reset(generator)

    def draw(self, generator: torch.Generator | None) -> Params:
        """Fresh initial parameters of one network."""
        out: Params = {}
        for i, layer in enumerate(self.layers):
            b, a = layer.weight.shape  # type: ignore[misc]
            out[f"layers.{i}.weight"] = uniform((b, a), math.sqrt(6 / a), generator)
            out[f"layers.{i}.bias"] = torch.zeros(b)
        return out

    def _features(self, coordinates: Tensor) -> Tensor:
        angle = coordinates @ self.projection.to(coordinates).mT
        return torch.cat([angle.sin(), angle.cos()], -1)

    def forward(self, coordinates: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        x = self._features(coordinates)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)

    def batched(self, params: Mapping[str, Tensor], coordinates: Tensor) -> Tensor:
        """Values of N networks at once; see `Inr.batched`."""
        x, last = self._features(coordinates), len(self.layers) - 1
        for i in range(last + 1):
            x = batched_linear(x, params[f"layers.{i}.weight"], params[f"layers.{i}.bias"])
            if i < last:
                x = torch.relu(x)
        return x
