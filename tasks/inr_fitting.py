"""Fitting implicit neural representations to pieces of photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.inr import FourierConfig, InrConfig, SirenConfig
from gmn_opt.meta import Batch, Split
from tasks.base import DataTask
from tasks.data.photographs import PHOTO_SETS, PIECES, photo_pieces
from tasks.data.splits import random_parts
from tasks.networks.plain import check_choice, check_positive, scale_matrices

KINDS = ("siren", "fourier")
_SHARES = (0.8, 0.05, 0.05)


@dataclass(frozen=True)
class InrFitting(DataTask):
    """Network i learns piece ``first + i`` of a set of photographs, from some of its pixels.

    The pixels of every piece are split at random places, so the loss on another split is that of
    interpolation.

    Attributes:
        data: A key of ``PHOTO_SETS``.
        size: Side of the pieces in pixels.
        hidden: Widths of hidden layers.
        kind: ``"siren"`` or ``"fourier"`` (a ReLU MLP on random Fourier features).
        frequency: ω0 of a SIREN; the scale of Fourier features.
        batch_size: Pixels per network and step.
        first: Number of the first network's piece; behind the last one the first follows.
        gain: Factor on the initial weights.
    """

    family: ClassVar[str] = "inr_fitting"

    data: str
    size: int
    hidden: tuple[int, ...]
    kind: str = "siren"
    frequency: float = 30.0
    batch_size: int = 256
    first: int = 0
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_choice("photographs", self.data, PHOTO_SETS)
        check_choice("kind", self.kind, KINDS)
        check_positive("widths", *self.hidden)
        check_positive(
            "size, frequency, batch_size and gain",
            self.size,
            self.frequency,
            self.batch_size,
            self.gain,
        )
        if self.size < 8:
            raise ValueError(f"Too few pixels to split: size is at least 8, received {self.size}.")
        if not 0 <= self.first < PIECES:
            raise ValueError(f"There are pieces 0 to {PIECES - 1}, received first={self.first}.")

    @property
    def name(self) -> str:
        """Data, size, architecture, batch size and the first piece."""
        kind = f"{self.kind}-{'-'.join(map(str, self.hidden))}-w{self.frequency:g}"
        return f"{self.data}{self.size}-{kind}-b{self.batch_size}-from{self.first}"

    def build(self) -> nn.Module:
        """A fresh network."""
        channels = photo_pieces(self.data, self.size).shape[1]
        config: InrConfig
        if self.kind == "siren":
            config = SirenConfig(2, channels, self.hidden, omega=self.frequency)
        else:
            config = FourierConfig(2, channels, self.hidden, scale=self.frequency)
        return scale_matrices(config.build(), self.gain)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Five places."""
        return (2 * torch.rand(5, 2, generator=torch.Generator().manual_seed(0)) - 1,)

    def _places(self, split: Split) -> tuple[Tensor, Tensor]:
        """Numbers of the split's pixels, and the coordinates of all, ``[size², 2]``."""
        axis = (torch.arange(self.size) + 0.5) / self.size * 2 - 1
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
        return random_parts(self.size**2, _SHARES)[split], grid

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """``x``: [count, batch, 2] in [-1, 1]; ``y``: [count, batch, channels]."""
        places, grid = self._places(split)
        shape = (count, self.batch_size)
        index = places[torch.randint(len(places), shape, generator=generator)]
        pieces = photo_pieces(self.data, self.size).flatten(2).transpose(1, 2)
        own = (self.first + torch.arange(count)) % PIECES
        return {"x": grid[index], "y": pieces[own[:, None], index]}

    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """Pixels of the network's piece."""
        places, grid = self._places(split)
        pieces = photo_pieces(self.data, self.size)
        piece = pieces[(self.first + network) % PIECES].flatten(1).T
        return {"x": grid[places[:limit]], "y": piece[places[:limit]]}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of pixels of variance 1."""
        return F.mse_loss(output, batch["y"])
