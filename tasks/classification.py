"""Image classification with small networks of many kinds, on real images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.meta import Batch, Split, Task
from tasks.data.images import images_of

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class ImageClassification(Task):
    """A classifier of grey images of ``size`` x ``size`` pixels.

    Attributes:
        data: Name of the data set, see ``tasks.data.images``.
        size: Side of the images.
        hidden: Widths of hidden layers (``kind="mlp"``) or channels (``"cnn"``).
        kind: ``"mlp"`` or ``"cnn"``: 3x3 convolutions, each followed by 2x2 max pooling.
        activation: A key of ``ACTIVATIONS``.
        norm: ``"none"``, ``"layer"`` (MLP) or ``"batch"`` (CNN; batch statistics only).
        batch_size: Images per network and step.
        label_noise: Share of labels replaced by random ones.
        pixel_noise: Standard deviation of noise added to normalized pixels.
        overlay: Weight of a second image, from another random class, added to each image.
        gain: Factor on the initial weights.
    """

    data: str
    size: int
    hidden: tuple[int, ...]
    kind: str = "mlp"
    activation: str = "relu"
    norm: str = "none"
    batch_size: int = 64
    label_noise: float = 0.0
    pixel_noise: float = 0.0
    overlay: float = 0.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        norms = {"mlp": ("none", "layer"), "cnn": ("none", "batch")}
        for what, received, known in (
            ("kind", self.kind, norms),
            ("activation", self.activation, ACTIVATIONS),
            ("norm", self.norm, norms.get(self.kind, ())),
        ):
            if received not in known:
                raise ValueError(
                    f"Unknown {what} {received!r} for kind={self.kind!r}; choose one of "
                    f"{', '.join(known)}."
                )
        if self.kind == "cnn" and self.size >> len(self.hidden) < 1:
            raise ValueError(
                f"{len(self.hidden)} poolings leave nothing of {self.size}x{self.size} pixels. "
                "Take fewer layers."
            )

    @property
    def name(self) -> str:
        """Data, size, architecture and batch size."""
        widths = "-".join(map(str, self.hidden))
        return f"{self.data}{self.size}-{self.kind}-{widths}-{self.activation}-b{self.batch_size}"

    def spec(self) -> dict[str, Any]:
        """All fields."""
        return {"task": "image_classification", **asdict(self)}

    def build(self) -> nn.Module:
        """A fresh network."""
        act = ACTIVATIONS[self.activation]
        layers: list[nn.Module] = []
        if self.kind == "mlp":
            width = self.size**2
            layers.append(nn.Flatten())
            for hidden in self.hidden:
                layers.append(nn.Linear(width, hidden))
                if self.norm == "layer":
                    layers.append(nn.LayerNorm(hidden))
                layers.append(act())
                width = hidden
        else:
            channels, side = 1, self.size
            for hidden in self.hidden:
                layers.append(nn.Conv2d(channels, hidden, 3, padding=1))
                if self.norm == "batch":
                    layers.append(nn.BatchNorm2d(hidden, track_running_stats=False))
                layers += [act(), nn.MaxPool2d(2)]
                channels, side = hidden, side // 2
            layers.append(nn.Flatten())
            width = channels * side**2
        layers.append(nn.Linear(width, images_of(self.data, self.size).classes))
        network = nn.Sequential(*layers)
        if self.gain != 1.0:
            with torch.no_grad():
                for p in network.parameters():
                    if p.dim() > 1:
                        p.mul_(self.gain)
        return network

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
            x = x + self.pixel_noise * torch.randn(x.shape, generator=generator)
        if self.label_noise:
            wrong = torch.randint(classes, shape, generator=generator)
            flip = torch.rand(shape, generator=generator) < self.label_noise
            y = torch.where(flip, wrong, y)
        return {"x": x, "y": y}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean cross entropy in nats."""
        return F.cross_entropy(output, batch["y"])
