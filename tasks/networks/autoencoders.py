"""Convolutional autoencoders of grey images: a plain one, and a U-Net with its shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.plain import ACTIVATIONS, norm2d


def _down(inputs: int, outputs: int, activation: str, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    return nn.Sequential(conv, *norm2d(norm, outputs), ACTIVATIONS[activation]())


class ConvAutoencoder(nn.Module):
    """Convolutions of stride 2 down to ``widths[-1]`` channels, transposed ones back up."""

    def __init__(self, widths: Sequence[int], activation: str, norm: str) -> None:
        super().__init__()
        sizes = [1, *widths]
        pairs = list(pairwise(sizes))
        self.encoder = nn.Sequential(*(_down(a, b, activation, norm) for a, b in pairs))
        layers: list[nn.Module] = []
        for a, b in reversed(pairs):
            layers.append(nn.ConvTranspose2d(b, a, 2, stride=2))
            if a > 1:
                layers += [*norm2d(norm, a), ACTIVATIONS[activation]()]
        self.decoder = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, S, S]`` to the same."""
        return self.decoder(self.encoder(x))


class UNet(nn.Module):
    """Ronneberger et al. 2015 (arXiv 1505.04597) in small, to take noise out of images.

    Down by convolutions of stride 2, up by repeating pixels; each step up also reads what the step
    down at its resolution read.
    """

    def __init__(self, widths: Sequence[int], activation: str, norm: str) -> None:
        super().__init__()
        sizes = [1, *widths]
        pairs = list(pairwise(sizes))
        self.downs = nn.ModuleList(_down(a, b, activation, norm) for a, b in pairs)
        ups: list[nn.Module] = []
        for i, (a, b) in reversed(list(enumerate(pairs))):
            if i == 0:
                ups.append(nn.Conv2d(a + b, 1, 3, padding=1))
            else:
                conv = nn.Conv2d(a + b, a, 3, padding=1)
                ups.append(nn.Sequential(conv, *norm2d(norm, a), ACTIVATIONS[activation]()))
        self.ups = nn.ModuleList(ups)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, S, S]`` to the same."""
        read = []
        for down in self.downs:
            read.append(x)
            x = down(x)
        for up, seen in zip(self.ups, reversed(read), strict=True):
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0), seen], 1))
        return x
