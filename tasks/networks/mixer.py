"""MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601): MLPs over places and over channels."""

from __future__ import annotations

from torch import Tensor, nn

from tasks.networks.plain import ACTIVATIONS
from tasks.networks.transformer import Patches


class MixerBlock(nn.Module):
    """An MLP over the places of each channel, then one over the channels of each place."""

    def __init__(self, places: int, width: int, activation: str, expansion: int = 2) -> None:
        super().__init__()

        def two_layers(inputs: int) -> nn.Sequential:
            wide = expansion * inputs
            act = ACTIVATIONS[activation]()
            return nn.Sequential(nn.Linear(inputs, wide), act, nn.Linear(wide, inputs))

        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places, self.channels = two_layers(places), two_layers(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, width]`` to the same."""
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """A classifier of grey images that reads the mean of all tokens."""

    def __init__(
        self, size: int, patch: int, width: int, depth: int, outputs: int, activation: str
    ) -> None:
        super().__init__()
        places = (size // patch) ** 2
        self.patches = Patches(patch, width)
        self.blocks = nn.Sequential(*(MixerBlock(places, width, activation) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, size, size]`` to ``[N, outputs]``."""
        return self.head(self.norm(self.blocks(self.patches(x))).mean(1))
