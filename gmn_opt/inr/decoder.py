"""The ReLU MLP that reads features at a place: the last part of INRs with grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gmn_opt.inr.base import Params, batched_linear, uniform


def decoder(sizes: Sequence[int]) -> nn.ModuleList:
    """Its layers, without values; ``sizes``: of features, hidden layers and outputs."""
    return nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(sizes))


def draw_decoder(layers: nn.ModuleList, generator: torch.Generator | None) -> Params:
    """Fresh initial parameters, as by He et al. 2015, under their names in ``layers``."""
    out: Params = {}
    for i, layer in enumerate(layers):
        b, a = layer.weight.shape  # type: ignore[misc]
        out[f"layers.{i}.weight"] = uniform((b, a), math.sqrt(6 / a), generator)
        out[f"layers.{i}.bias"] = torch.zeros(b)
    return out


def decode(layers: nn.ModuleList, features: Tensor) -> Tensor:
    """``[..., features]`` to ``[..., outputs]``."""
    for layer in layers[:-1]:
        features = torch.relu(layer(features))
    last: Tensor = layers[-1](features)
    return last


def decode_batched(params: Mapping[str, Tensor], features: Tensor, count: int) -> Tensor:
    """The same for N networks of ``count`` layers, whose parameters are ``[N, *shape]``."""
    for i in range(count):
        features = batched_linear(
            features, params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
        )
        if i < count - 1:
            features = torch.relu(features)
    return features
