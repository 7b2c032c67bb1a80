"""Autoencoders of real images, denoising or plain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.meta import Batch, Split
from tasks.base import DataTask, noise
from tasks.data.images import IMAGES, images_of
from tasks.networks.autoencoders import ConvAutoencoder, UNet
from tasks.networks.plain import ACTIVATIONS, check_choice, check_positive, mlp, scale_matrices

NORMS = {"mlp": ("none", "layer"), "conv": ("none", "batch", "group"), "unet": ("none", "group")}


@dataclass(frozen=True)
class ImageAutoencoding(DataTask):
    """Reconstruct a grey image of ``size`` x ``size`` pixels, behind noise if there is any.

    Attributes:
        data: Name of the data set, one of ``tasks.data.images.IMAGES``.
        size: Side of the images.
        hidden: Widths down to the narrowest (``kind="mlp"``), mirrored on the way up; channels of
            convolutions of stride 2 (``"conv"``, ``"unet"``).
        kind: ``"mlp"``, ``"conv"`` or ``"unet"`` (with shortcuts, so only sensible with noise).
        activation: A key of ``ACTIVATIONS``.
        norm: ``"none"``, ``"layer"`` (MLP), ``"batch"`` (conv) or ``"group"`` (conv, U-Net).
        batch_size: Images per network and step.
        pixel_noise: Standard deviation of the noise on normalized input pixels.
        gain: Factor on the initial weights.
    """

    family: ClassVar[str] = "image_autoencoding"

    data: str
    size: int
    hidden: tuple[int, ...]
    kind: str = "mlp"
    activation: str = "relu"
    norm: str = "none"
    batch_size: int = 32
    pixel_noise: float = 0.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_choice("data", self.data, IMAGES)
        check_choice("kind", self.kind, NORMS)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice(f"norm of kind={self.kind!r}:", self.norm, NORMS[self.kind])
        check_positive("widths", *self.hidden)
        check_positive("size, batch_size and gain", self.size, self.batch_size, self.gain)
        if self.kind != "mlp" and self.size % 2 ** len(self.hidden):
            raise ValueError(
                f"{self.size} pixels cannot be halved {len(self.hidden)} times and doubled back. "
                "Take fewer layers or another size."
            )

    @property
    def name(self) -> str:
        """Data, size, architecture and batch size."""
        kind = f"ae_{self.kind}-{'-'.join(map(str, self.hidden))}"
        return f"{self.data}{self.size}-{kind}-{self.activation}-b{self.batch_size}"

    def build(self) -> nn.Module:
        """A fresh network."""
        network: nn.Module
        if self.kind == "mlp":
            pixels = self.size**2
            widths = (*self.hidden, *self.hidden[-2::-1])
            layers = mlp(pixels, widths, pixels, self.activation, self.norm)
            shape = (1, self.size, self.size)
            network = nn.Sequential(nn.Flatten(), *layers, nn.Unflatten(1, shape))
        else:
            kind = ConvAutoencoder if self.kind == "conv" else UNet
            network = kind(self.hidden, self.activation, self.norm)
        return scale_matrices(network, self.gain)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two noise images."""
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(2, 1, self.size, self.size, generator=generator),)

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """``y``, and ``x``, the same with noise: [count, batch, 1, size, size]."""
        images, _, _ = images_of(self.data, self.size).split(split)
        y = images[torch.randint(len(images), (count, self.batch_size), generator=generator)]
        return {"x": y + self.pixel_noise * noise(y, generator) if self.pixel_noise else y, "y": y}

    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """The first images of the split, behind the same noise at every call."""
        images, _, _ = images_of(self.data, self.size).split(split)
        y = images[:limit]
        return {"x": y + self.pixel_noise * noise(y, torch.Generator().manual_seed(0)), "y": y}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of pixels of variance 1."""
        return F.mse_loss(output, batch["y"])
