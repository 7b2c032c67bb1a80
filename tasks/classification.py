"""Image classification with small networks of many kinds, on real images."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.meta import Batch, Split
from tasks.base import DataTask, noise, right
from tasks.data.images import IMAGES, images_of
from tasks.networks.mixer import Mixer
from tasks.networks.plain import (
    ACTIVATIONS,
    check_choice,
    check_positive,
    cnn,
    mlp,
    scale_matrices,
)
from tasks.networks.resnet import ResNet
from tasks.networks.transformer import ViT

#: Kinds of networks, and their normalizations. The input of a batch norm is one network's batch.
NORMS = {
    "mlp": ("none", "layer"),
    "cnn": ("none", "batch", "group"),
    "strided": ("none", "batch", "group"),
    "resnet": ("none", "batch", "group"),
}


@dataclass(frozen=True)
class _ImageLabels(DataTask):
    """Grey images of ``size`` x ``size`` pixels and their classes.

    Attributes:
        data: Name of the data set, one of ``tasks.data.images.IMAGES``.
        size: Side of the images.
        batch_size: Images per network and step.
        label_noise: Share of labels replaced by random ones.
        pixel_noise: Standard deviation of noise added to normalized pixels.
        overlay: Weight of a second image, from another random class, added to each image.
        activation: A key of ``ACTIVATIONS``.
        gain: Factor on the initial weights.
    """

    data: str
    size: int
    _: KW_ONLY
    batch_size: int = 64
    label_noise: float = 0.0
    pixel_noise: float = 0.0
    overlay: float = 0.0
    activation: str = "relu"
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_choice("data", self.data, IMAGES)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_positive("size, batch_size and gain", self.size, self.batch_size, self.gain)
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise is a share from 0 to 1, received {self.label_noise}.")

    @property
    def classes(self) -> int:
        """How many there are."""
        return images_of(self.data, self.size).classes

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two noise images."""
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(2, 1, self.size, self.size, generator=generator),)

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """``x``: [count, batch, 1, size, size]; ``y``: [count, batch]."""
        images, labels, classes = images_of(self.data, self.size).split(split)
        shape = (count, self.batch_size)
        index = torch.randint(len(images), shape, generator=generator)
        x, y = images[index], labels[index]
        if self.overlay:
            other = torch.randint(len(images), shape, generator=generator)
            x = (x + self.overlay * images[other]) / (1 + self.overlay**2) ** 0.5
        if self.pixel_noise:
            x = x + self.pixel_noise * noise(x, generator)
        if self.label_noise:
            wrong = torch.randint(classes, shape, generator=generator)
            flip = torch.rand(shape, generator=generator) < self.label_noise
            y = torch.where(flip, wrong, y)
        return {"x": x, "y": y}

    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """The first images of the split."""
        images, labels, _ = images_of(self.data, self.size).split(split)
        return {"x": images[:limit], "y": labels[:limit]}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean cross entropy in nats."""
        return F.cross_entropy(output, batch["y"])

    def accuracy(self, output: Tensor, batch: Batch) -> Tensor:
        """Share of images whose class is the likeliest."""
        return right(output, batch["y"])


@dataclass(frozen=True)
class ImageClassification(_ImageLabels):
    """A classifier of layers in a row, or a residual network.

    Attributes:
        hidden: Widths of hidden layers (``kind="mlp"``), channels (``"cnn"``, ``"strided"``), or
            channels of the stem and of every block (``"resnet"``).
        kind: ``"mlp"``; ``"cnn"``: 3x3 convolutions, each followed by 2x2 max pooling;
            ``"strided"``: 3x3 convolutions of stride 2; ``"resnet"``: see ``tasks.networks``.
        norm: ``"none"``, ``"layer"`` (MLP), ``"batch"`` or ``"group"`` (the others).
    """

    family: ClassVar[str] = "image_classification"

    hidden: tuple[int, ...]
    kind: str = "mlp"
    norm: str = "none"

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, NORMS)
        if self.norm not in NORMS[self.kind]:
            raise ValueError(
                f"Unknown norm {self.norm!r} for kind={self.kind!r}; choose one of "
                f"{', '.join(NORMS[self.kind])}."
            )
        check_positive("widths", *self.hidden)
        if self.kind == "cnn" and self.size >> len(self.hidden) < 1:
            raise ValueError(
                f"{len(self.hidden)} poolings leave nothing of {self.size}x{self.size} pixels. "
                "Take fewer layers."
            )
        super().__post_init__()

    @property
    def name(self) -> str:
        """Data, size, architecture and batch size."""
        widths = "-".join(map(str, self.hidden))
        return f"{self.data}{self.size}-{self.kind}-{widths}-{self.activation}-b{self.batch_size}"

    def build(self) -> nn.Module:
        """A fresh network."""
        if self.kind == "resnet":
            network: nn.Module = ResNet(self.hidden, self.classes, self.activation, self.norm)
        elif self.kind == "mlp":
            widths = (self.size**2, self.hidden, self.classes)
            network = nn.Sequential(nn.Flatten(), *mlp(*widths, self.activation, self.norm))
        else:
            widths = (self.size, self.hidden, self.classes)
            strided = self.kind == "strided"
            network = nn.Sequential(*cnn(*widths, self.activation, self.norm, strided))
        return scale_matrices(network, self.gain)


@dataclass(frozen=True)
class PatchClassification(_ImageLabels):
    """A classifier that reads an image as a sequence of patches.

    Attributes:
        width: Of every token.
        depth: Number of blocks.
        kind: ``"vit"`` or ``"mixer"``.
        patch: Side of a patch; divides ``size``.
        heads: Of attention; divides ``width``.
        class_token: Whether a ViT reads its answer from a token of its own, not from the mean.
    """

    family: ClassVar[str] = "patch_classification"

    width: int
    depth: int = 1
    kind: str = "vit"
    patch: int = 4
    heads: int = 2
    class_token: bool = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("vit", "mixer"))
        check_positive(
            "width, depth, patch and heads", self.width, self.depth, self.patch, self.heads
        )
        if self.size % self.patch:
            raise ValueError(f"Patches of side {self.patch} do not tile images of {self.size}.")
        if self.kind == "vit" and self.width % self.heads:
            raise ValueError(f"{self.heads} heads cannot share a width of {self.width} evenly.")
        super().__post_init__()

    @property
    def name(self) -> str:
        """Data, size, architecture and batch size."""
        kind = f"{self.kind}-{self.width}x{self.depth}-p{self.patch}"
        token = "-token" if self.class_token else ""
        return f"{self.data}{self.size}-{kind}{token}-{self.activation}-b{self.batch_size}"

    def build(self) -> nn.Module:
        """A fresh network."""
        common = (self.size, self.patch, self.width, self.depth, self.classes)
        network: nn.Module
        if self.kind == "vit":
            network = ViT(*common, self.heads, self.activation, self.class_token)
        else:
            network = Mixer(*common, self.activation)
        return scale_matrices(network, self.gain)
