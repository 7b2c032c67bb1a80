"""A multiresolution INR: several grids of features, from coarse to fine, and a small MLP.

The features of all grids at a place are read by one decoder, as in Instant-NGP (Müller et al. 2022,
arXiv 2201.05989), here with dense grids, which small images can afford. Coarse grids say what is
smooth, fine ones what is left.
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
from gmn_opt.inr.feature_grid import interpolation
from gmn_opt.weights.plain import is_count

#: Of the features at initialization: small, so that the decoder begins nearly constant.
_FEATURES = 0.1


@register
@dataclass(frozen=True)
class PyramidConfig(InrConfig):
    """Grids of ``resolutions`` points per coordinate and ``channels`` features each, then a MLP."""

    family: ClassVar[str] = "feature_pyramid"

    widths: tuple[int, ...] = (32,)
    resolutions: tuple[int, ...] = (7, 14, 28)
    channels: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that make no network."""
        super().__post_init__()
        # lists come from files
        object.__setattr__(self, "resolutions", tuple(self.resolutions))
        right = self.resolutions and all(is_count(n, 2) for n in self.resolutions)
        if not right or not is_count(self.channels):
            raise ValueError(
                "A feature pyramid needs a grid of at least two points per coordinate and one "
                f"channel, received resolutions={self.resolutions}, channels={self.channels}."
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `InrConfig.shapes`; raises ValueError for grids that no memory holds."""
        if len(self.resolutions) > 64 or self.inputs * math.log2(max(self.resolutions)) > 40:
            raise ValueError(
                f"{len(self.resolutions)} grids of up to {max(self.resolutions)} points along "
                f"{self.inputs} coordinates are too large."
            )
        grids = {f"grids.{i}": (n**self.inputs, self.channels)
                 for i, n in enumerate(self.resolutions)}  # fmt: skip
        return grids | mlp_shapes(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the decoder, from the features of all grids to the outputs."""
        return (self.channels * len(self.resolutions), *self.widths, self.outputs)

    def build(self, generator: torch.Generator | None = None) -> FeaturePyramid:
        """A freshly initialized network."""
        return FeaturePyramid(self, generator)


class FeaturePyramid(Inr):
    """Interpolated features of several grids, side by side, and a ReLU MLP.

    Grid i is the parameter ``grids.i`` [resolutions[i] ** inputs, channels]; for its points see
    `gmn_opt.inr.FeatureGrid`.
    """

    config: PyramidConfig

    def __init__(
        self, config: PyramidConfig | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(config or PyramidConfig())
        c = self.config
        self.grids = nn.ParameterList(
            nn.Parameter(torch.empty(n**c.inputs, c.channels)) for n in c.resolutions
        )
        self.layers = decoder(c.sizes)
        self.reset(generator)

    def draw(self, generator: torch.Generator | None) -> Params:
        """Fresh initial parameters: small features, and an MLP as by He et al. 2015 for them."""
        out: Params = {}
        for i, grid in enumerate(self.grids):
            out[f"grids.{i}"] = uniform(tuple(grid.shape), _FEATURES, generator)
        return out | draw_decoder(self.layers, generator)

    def forward(self, coordinates: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        levels = zip(self.config.resolutions, self.grids, strict=True)
        features = [interpolation(coordinates, n) @ grid for n, grid in levels]
        return decode(self.layers, torch.cat(features, -1))

    def batched(self, params: Mapping[str, Tensor], coordinates: Tensor) -> Tensor:
        """Values of N networks at once; see `Inr.batched`."""
        levels = enumerate(self.config.resolutions)
        features = [interpolation(coordinates, n) @ params[f"grids.{i}"] for i, n in levels]
        return decode_batched(params, torch.cat(features, -1), len(self.layers))
