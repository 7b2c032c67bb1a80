"""Networks of layers in a row, and what all networks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}


def check_choice(what: str, received: str, known: Mapping[str, Any] | Sequence[str]) -> None:
    """Raise ValueError unless ``received`` is among ``known``."""
    if received not in known:
        raise ValueError(f"Unknown {what} {received!r}; choose one of {', '.join(known)}.")


def check_positive(what: str, *received: float) -> None:
    """Raise ValueError unless there are numbers and all of them are above zero."""
    if not received or min(received) <= 0:
        raise ValueError(f"{what} must be positive, received {received}.")


def scale_matrices(network: nn.Module, gain: float) -> nn.Module:
    """Multiply everything that has two axes or more by ``gain``; biases and norms stay."""
    if gain != 1.0:
        with torch.no_grad():
            for p in network.parameters():
                if p.dim() > 1:
                    p.mul_(gain)
    return network


def norm2d(norm: str, channels: int) -> list[nn.Module]:
    """A normalization of ``[N, C, H, W]``: ``"none"``, ``"batch"`` or ``"group"``.

    Batch norm keeps no running statistics: under ``vmap`` they would be shared by all networks.
    Group norm has four groups, or as many as divide the channels.
    """
    if norm == "batch":
        return [nn.BatchNorm2d(channels, track_running_stats=False)]
    if norm == "group":
        groups = next(g for g in (4, 3, 2, 1) if channels % g == 0)
        return [nn.GroupNorm(groups, channels)]
    return []


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int, activation: str = "relu", norm: str = "none"
) -> list[nn.Module]:
    """Linear layers; ``norm="layer"`` puts a layer norm in front of every activation."""
    layers: list[nn.Module] = []
    width = inputs
    for wide in hidden:
        layers.append(nn.Linear(width, wide))
        if norm == "layer":
            layers.append(nn.LayerNorm(wide))
        layers.append(ACTIVATIONS[activation]())
        width = wide
    return [*layers, nn.Linear(width, outputs)]


def cnn(
    size: int,
    hidden: Sequence[int],
    outputs: int,
    activation: str = "relu",
    norm: str = "none",
    strided: bool = False,
) -> list[nn.Module]:
    """3x3 convolutions that halve the side, by max pooling or by their stride, and a linear head.

    The input is grey, ``[N, 1, size, size]``.
    """
    layers: list[nn.Module] = []
    channels, side = 1, size
    for wide in hidden:
        layers.append(nn.Conv2d(channels, wide, 3, stride=2 if strided else 1, padding=1))
        layers += [*norm2d(norm, wide), ACTIVATIONS[activation]()]
        if not strided:
            layers.append(nn.MaxPool2d(2))
        channels, side = wide, (side + 1) // 2 if strided else side // 2
    return [*layers, nn.Flatten(), nn.Linear(channels * side**2, outputs)]
