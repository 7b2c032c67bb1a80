"""A small residual network (He et al. 2016, arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from tasks.networks.plain import ACTIVATIONS, norm2d


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the identity, or 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            *norm2d(norm, outputs),
            ACTIVATIONS[activation](),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            *norm2d(norm, outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity()
        if not same:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, outputs, H', W']``."""
        return self.activation(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem of stride 2, a block per pair of widths, the mean over places, a linear head.

    A block keeps the side where its width stays the same and halves it otherwise.
    """

    def __init__(self, widths: Sequence[int], outputs: int, activation: str, norm: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, stride=2, padding=1),
            *norm2d(norm, widths[0]),
            ACTIVATIONS[activation](),
        )
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(a, b, 1 if a == b else 2, activation, norm)
                for a, b in pairwise(widths)
            )
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, H, W]`` to ``[N, outputs]``."""
        return self.head(self.blocks(self.stem(x)).mean((-2, -1)))
