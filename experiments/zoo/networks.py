"""Small image classifiers of many kinds, built from a plain dict.

All take grey images ``[B, 1, S, S]`` and give logits ``[B, 10]``. The kinds are those of Lim et al.
2023 (arXiv 2312.04501, appendix D), with a small causal transformer beside them. None has anything
in its forward pass that :func:`torch.func.vmap` cannot batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10
Config = dict[str, Any]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


class Dropout(nn.Module):
    """Dropout whose rate is a buffer, so that networks of one batch may differ in it."""

    rate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """In training mode, zero a share of ``x`` and scale up the rest."""
        if not self.training:
            return x
        keep = 1 - self.rate
        return x * (torch.rand_like(x) < keep) / keep


def _activation(config: Config) -> nn.Module:
    return _ACTIVATIONS[config.get("activation", "relu")]()


def _norm(name: str | None, channels: int) -> list[nn.Module]:
    if name == "batch":
        return [nn.BatchNorm2d(channels)]
    if name == "group":
        return [nn.GroupNorm(2 if channels % 2 == 0 else 1, channels)]
    return []


class GlobalMean(nn.Module):
    """Mean over all axes behind the channels: ``[B, C, ...]`` to ``[B, C]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        return x.flatten(2).mean(2)


class Columns(nn.Module):
    """An image as a signal with its rows as channels, for convolutions along one axis."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop the channel."""
        return x.squeeze(1)


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        out: Tensor = x + self.body(x)
        return out


class Attention(nn.Module):
    """Multi-head self-attention ``[B, T, C]``, causal if asked."""

    def __init__(self, channels: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.v, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).mT for f in (self.q, self.k, self.v))
        # [B, T, d, h] each; scores [B, h, T, T]
        scores = torch.einsum("btdh,bsdh->bhts", q, k) / q.shape[2] ** 0.5
        if self.causal:
            size = x.shape[1]
            later = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -1e9)
        mixed = torch.einsum("bhts,bsdh->bthd", scores.softmax(-1), v)
        out: Tensor = self.out(mixed.flatten(2))
        return out


class Transformer(nn.Module):
    """A ViT over patches, or a causal transformer over rows that answers at the last one."""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.causal = config["kind"] == "gpt"
        self.patch = config.get("patch", 7)
        inputs = size if self.causal else self.patch**2
        length = size if self.causal else (size // self.patch) ** 2
        c = config["width"]
        self.embed = nn.Linear(inputs, c)
        self.position = nn.Parameter(0.02 * torch.randn(length, c))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    Residual(nn.LayerNorm(c), Attention(c, config["heads"], self.causal)),
                    Residual(
                        nn.LayerNorm(c), nn.Linear(c, 2 * c), _activation(config), Dropout(),
                        nn.Linear(2 * c, c),
                    ),
                )
                for _ in range(config["depth"])
            )
        )  # fmt: skip
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if self.causal:
            tokens = x.squeeze(1)
        else:
            p = self.patch
            tokens = x.squeeze(1).unflatten(2, (-1, p)).unflatten(1, (-1, p))
            tokens = tokens.transpose(2, 3).flatten(3).flatten(1, 2)
        states = self.norm(self.blocks(self.embed(tokens) + self.position))
        pooled = states[:, -1] if self.causal else states.mean(1)
        out: Tensor = self.head(pooled)
        return out


class DeepSets(nn.Module):
    """Pixels as a set of (row, column, value): an MLP per pixel, the mean, another MLP."""

    place: Tensor

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, size)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
        self.register_buffer("place", grid)
        c = config["width"]
        self.element = nn.Sequential(
            nn.Linear(3, c), _activation(config), nn.Linear(c, c), _activation(config)
        )
        self.head = _mlp([c, *[c] * (config["depth"] - 1), CLASSES], config)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        values = x.flatten(1).unsqueeze(-1)
        place = self.place.expand(len(values), -1, -1)
        out: Tensor = self.head(self.element(torch.cat([place, values], -1)).mean(1))
        return out


def _mlp(sizes: Sequence[int], config: Config) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if number + 2 < len(sizes):
            layers += [_activation(config), Dropout()]
    return nn.Sequential(*layers)


def _cnn(config: Config) -> nn.Sequential:
    layers: list[nn.Module] = []
    kernel, width = config["kernel"], config["width"]
    channels = [1] + [
        width * (2 if i >= config["depth"] / 2 else 1) for i in range(config["depth"])
    ]
    for number, (a, b) in enumerate(pairwise(channels)):
        stride = config["stride"] if number < 2 else 1
        layers += [nn.Conv2d(a, b, kernel, stride, kernel // 2), *_norm(config.get("norm"), b)]
        layers += [_activation(config), Dropout()]
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(channels[-1], CLASSES))


def _cnn1d(config: Config, size: int) -> nn.Sequential:
    width, kernel = config["width"], config["kernel"]
    layers: list[nn.Module] = [Columns()]
    for a, b in pairwise([size, *[width] * config["depth"]]):
        layers += [nn.Conv1d(a, b, kernel, 1, kernel // 2), _activation(config), Dropout()]
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(width, CLASSES))


def _resnet(config: Config) -> nn.Sequential:
    c, kernel = config["width"], config["kernel"]
    layers: list[nn.Module] = [nn.Conv2d(1, c, kernel, 2, kernel // 2), _activation(config)]
    for _ in range(config["depth"]):
        norm = config.get("norm")
        layers.append(
            Residual(
                *_norm(norm, c), nn.Conv2d(c, c, kernel, 1, kernel // 2), _activation(config),
                Dropout(), nn.Conv2d(c, c, kernel, 1, kernel // 2),
            )
        )  # fmt: skip
    return nn.Sequential(*layers, _activation(config), GlobalMean(), nn.Linear(c, CLASSES))


KINDS = ("mlp", "cnn", "cnn1d", "resnet", "deepsets", "vit", "gpt")


def build(config: Config, size: int) -> nn.Module:
    """The network of this config for images of ``size`` x ``size`` pixels.

    Raises ValueError for a kind that there is not.
    """
    kind = config["kind"]
    if kind == "mlp":
        sizes = [size * size, *[config["width"]] * config["depth"], CLASSES]
        return nn.Sequential(nn.Flatten(), *_mlp(sizes, config))
    if kind == "cnn":
        return _cnn(config)
    if kind == "cnn1d":
        return _cnn1d(config, size)
    if kind == "resnet":
        return _resnet(config)
    if kind == "deepsets":
        return DeepSets(config, size)
    if kind in ("vit", "gpt"):
        return Transformer(config, size)
    raise ValueError(f"Unknown kind of network {kind!r}; choose one of {', '.join(KINDS)}.")
