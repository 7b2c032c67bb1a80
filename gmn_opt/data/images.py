"""Labelled grey images, and how they become network inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

DEFAULT_MEAN = 0.2860
"""Mean pixel of Fashion-MNIST's 60,000 training images, with pixels in [0, 1]."""
DEFAULT_STD = 0.3530
"""Standard deviation of the same pixels."""


@dataclass(frozen=True)
class ImageDataset:
    """A classification data set of grey images, split into train and test.

    Attributes:
        train_images: uint8 ``[N, H, W]``.
        train_labels: int64 ``[N]``, classes counted from 0.
        test_images: uint8 ``[M, H, W]``.
        test_labels: int64 ``[M]``.
        name: Which data set this is.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    name: str

    def __post_init__(self) -> None:
        """Check dtypes and shapes.

        Raises:
            ValueError: Images are not uint8 ``[N, H, W]`` or labels not int64 ``[N]``.
        """
        for split in ("train", "test"):
            images: Tensor = getattr(self, f"{split}_images")
            labels: Tensor = getattr(self, f"{split}_labels")
            if images.dtype != torch.uint8 or images.ndim != 3:
                raise ValueError(
                    f"{self.name}: {split} images must be uint8 [N, H, W], got {images.dtype} "
                    f"{list(images.shape)}"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise ValueError(
                    f"{self.name}: {split} labels must be int64 [{images.shape[0]}], got "
                    f"{labels.dtype} {list(labels.shape)}"
                )

    def __repr__(self) -> str:
        """The name and the sizes, not the pixels."""
        height, width = self.train_images.shape[1:]
        return (
            f"ImageDataset({self.name!r}, train={len(self.train_images)}, "
            f"test={len(self.test_images)}, {height}x{width}, classes={self.num_classes})"
        )

    @property
    def num_classes(self) -> int:
        """One more than the largest training label."""
        return int(self.train_labels.max()) + 1

    @property
    def mean(self) -> float:
        """Mean training pixel, with pixels in [0, 1]."""
        return _statistics(self.train_images)[0]

    @property
    def std(self) -> float:
        """Standard deviation of the training pixels, with pixels in [0, 1]."""
        return _statistics(self.train_images)[1]

    def normalized(self, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Train and test images as network inputs, both scaled by the training statistics.

        Args:
            size: Side of the square images to return; by default the stored one.

        Returns:
            float32 ``[N, 1, size, size]`` and ``[M, 1, size, size]``.
        """
        side = self.train_images.shape[-1] if size is None else size
        mean, std = _statistics(self.train_images)
        return (
            normalize(self.train_images, side, mean=mean, std=std),
            normalize(self.test_images, side, mean=mean, std=std),
        )


def normalize(
    images: Tensor, size: int = 28, *, mean: float = DEFAULT_MEAN, std: float = DEFAULT_STD
) -> Tensor:
    """Grey images as network inputs: shrunk by area averaging, then ``(x - mean) / std``.

    The statistics are constants, by default Fashion-MNIST's, so that an image becomes the same
    input in whatever batch it comes; `ImageDataset.normalized` uses those of the data set.

    Args:
        images: uint8 ``[N, H, W]`` with pixels 0 to 255.
        size: Side of the square result, at most ``min(H, W)``.
        mean: Subtracted from pixels in [0, 1].
        std: Divides the result.

    Returns:
        float32 ``[N, 1, size, size]``.

    Raises:
        ValueError: Wrong dtype or shape, a size out of range, or a std that is not positive.
    """
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise ValueError(f"expected uint8 [N, H, W], got {images.dtype} {list(images.shape)}")
    if not 1 <= size <= min(images.shape[1:]):
        raise ValueError(
            f"cannot average {images.shape[1]}x{images.shape[2]} images to side {size}; choose 1 "
            f"to {min(images.shape[1:])}"
        )
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    pixels = images.unsqueeze(1).to(torch.float32) / 255
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, size=(size, size), mode="area")
    return (pixels - mean) / std


def _statistics(images: Tensor) -> tuple[float, float]:
    """Exact mean and standard deviation of uint8 pixels scaled to [0, 1]."""
    counts = torch.bincount(images.flatten(), minlength=256).to(torch.float64)
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum()
    mean = (share * values).sum()
    return float(mean), float((share * (values - mean) ** 2).sum().sqrt())
