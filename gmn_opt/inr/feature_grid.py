"""A spatial-grid INR: a grid of features, interpolated linearly, and a small MLP.

The idea of dense grids (Sun et al. 2022, DVGO, arXiv 2111.11215) and of triplanes (Chan et al.
2022, arXiv 2112.07945), here with one grid over all coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gmn_opt.inr.base import (
    Inr,
    InrConfig,
    Params,
    mlp_shapes,
    register,
    uniform,
)
from gmn_opt.inr.decoder import decode, decode_batched, decoder, draw_decoder
from gmn_opt.weights.plain import is_count


@register
@dataclass(frozen=True)
class GridConfig(InrConfig):
    """A grid of ``resolution`` points per coordinate and ``channels`` features, then a ReLU MLP."""

    family: ClassVar[str] = "feature_grid"

    widths: tuple[int, ...] = (32,)
    resolution: int = 16
    channels: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that make no network."""
        super().__post_init__()
        if not is_count(self.resolution, 2) or not is_count(self.channels):
            raise ValueError(
                "A feature grid needs at least two points per coordinate and one channel, received "
                f"resolution={self.resolution}, channels={self.channels}."
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `InrConfig.shapes`; raises ValueError for a grid that no memory holds."""
        if self.inputs * math.log2(self.resolution) > 40:
            raise ValueError(
                f"A grid of {self.resolution} points along {self.inputs} coordinates is too large."
            )
        mlp = mlp_shapes((self.channels, *self.widths, self.outputs))
        return {"grid": (self.resolution**self.inputs, self.channels), **mlp}

    def build(self, generator: torch.Generator | None = None) -> FeatureGrid:
        """A freshly initialized network."""
        return FeatureGrid(self, generator)


class FeatureGrid(Inr):
    """Interpolated features and a ReLU MLP.

    The grid is the parameter ``grid`` [resolution ** inputs, channels]. Its points stand for
    evenly spaced coordinates over [-1, 1], the first coordinate slowest; outside, the border's
    features hold.
    """

    config: GridConfig

    def __init__(
        self, config: GridConfig | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(config or GridConfig())
        c = self.config
        self.grid = nn.Parameter(torch.empty(c.resolution**c.inputs, c.channels))
        sizes = (c.channels, *c.widths, c.outputs)
        self.layers = decoder(sizes)
        self.reset(generator)

    def draw(self, generator: torch.Generator | None) -> Params:
        """Fresh initial parameters of one network: U(-1, 1) features, He et al. 2015 in the MLP."""
        grid = uniform(tuple(self.grid.shape), 1.0, generator)
        return {"grid": grid, **draw_decoder(self.layers, generator)}

    def forward(self, coordinates: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        features = interpolation(coordinates, self.config.resolution) @ self.grid
        return decode(self.layers, features)

    def batched(self, params: Mapping[str, Tensor], coordinates: Tensor) -> Tensor:
        """Values of N networks at once; see `Inr.batched`."""
        features = interpolation(coordinates, self.config.resolution) @ params["grid"]
        return decode_batched(params, features, len(self.layers))


def interpolation(coordinates: Tensor, resolution: int) -> Tensor:
    """Share of every grid point in the features at ``coordinates`` [..., inputs].

    Hat functions, as a matrix [..., resolution ** inputs]: a plain product with the grid follows,
    which parameter graphs understand, unlike grid_sample.
    """
    last = resolution - 1
    place = ((coordinates + 1) * (last / 2)).clamp(0, last)
    knots = torch.arange(resolution, dtype=place.dtype, device=place.device)
    hats = (1 - (place.unsqueeze(-1) - knots).abs()).clamp_min(0)
    share = hats[..., 0, :]
    for axis in range(1, coordinates.shape[-1]):
        share = (share.unsqueeze(-1) * hats[..., axis, None, :]).flatten(-2)
    return share
