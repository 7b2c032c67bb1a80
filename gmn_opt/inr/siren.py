"""SIREN: an MLP with sine activations (Sitzmann et al. 2020, arXiv 2006.09661)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

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
from gmn_opt.inr.sine import sine


@register
@dataclass(frozen=True)
class SirenConfig(InrConfig):
    """A SIREN ``inputs -> widths... -> outputs``; every hidden layer is ``sin(omega * (Wx + b))``.

    Attributes:
        omega: Frequency factor of all hidden layers; the paper's 30.
    """

    family: ClassVar[str] = "siren"

    omega: float = 30.0

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that make no network, or a frequency that is not positive."""
        super().__post_init__()
        if not is_number(self.omega) or not self.omega > 0:
            raise ValueError(f"omega must be positive, received {self.omega}.")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `InrConfig.shapes`."""
        return mlp_shapes((self.inputs, *self.widths, self.outputs))

    def build(self, generator: torch.Generator | None = None) -> Siren:
        """A freshly initialized SIREN."""
        return Siren(self, generator)


class Siren(Inr):
    """A SIREN with the paper's initialization (section 3.2).

    Weights of the first layer come from U(-1/n, 1/n) with n inputs, those of the others from
    U(-√(6/n)/ω, √(6/n)/ω); biases from U(-1/√n, 1/√n), as in the authors' code.
    """

    config: SirenConfig

    def __init__(
        self, config: SirenConfig | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(config or SirenConfig())
        sizes = (self.config.inputs, *self.config.widths, self.config.outputs)
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(sizes))
        self.reset(generator)

    def draw(self, generator: torch.Generator | None) -> Params:
        """Fresh initial parameters of one network."""
        out: Params = {}
        for i, layer in enumerate(self.layers):
            b, a = layer.weight.shape  # type: ignore[misc]
            bound = 1 / a if i == 0 else math.sqrt(6 / a) / self.config.omega
            out[f"layers.{i}.weight"] = uniform((b, a), bound, generator)
            out[f"layers.{i}.bias"] = uniform((b,), 1 / math.sqrt(a), generator)
        return out

    def forward(self, coordinates: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        x = coordinates
        for layer in self.layers[:-1]:
            x = torch.sin(self.config.omega * layer(x))
        return self.layers[-1](x)

    def batched(self, params: Mapping[str, Tensor], coordinates: Tensor) -> Tensor:
        """Values of N networks at once; see `Inr.batched`."""
        x, last = coordinates, len(self.layers) - 1
        for i in range(last + 1):
            weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
            if i < last:
                # the factor goes into the small matrices, not over all points
                weight, bias = self.config.omega * weight, self.config.omega * bias
            x = batched_linear(x, weight, bias)
            if i < last:
                x = sine(x)
        return x
