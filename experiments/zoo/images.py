"""The images that populations are trained on: small and normalized."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gmn_opt.data import load_bundled, normalize
from tasks.data.images import images_of

#: Test images by which every network is judged.
JUDGED = 1000


@dataclass(frozen=True)
class Images:
    """Normalized images ``[N, ...]`` and labels ``[N]`` to train on, and to judge by."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor


@cache
def images(name: str, size: int) -> Images:
    """Bundled set ``name`` averaged down to ``size`` x ``size`` pixels of mean 0 and deviation 1.

    Raises ValueError for a set that is not bundled.
    """
    data = load_bundled(name)
    train, test = (
        normalize(pixels, size, mean=0, std=1)  # shrunk alone: statistics are of small images
        for pixels in (data.train_images, data.test_images[:JUDGED])
    )
    std, mean = torch.std_mean(train)
    return Images(
        (train - mean) / std, data.train_labels, (test - mean) / std, data.test_labels[:JUDGED]
    )


def flat_images(name: str, size: int, most: int | None = None) -> Images:
    """``[N, pixels]`` of one of ``tasks.data.images.IMAGES``; ``most`` bounds both splits."""
    data = images_of(name, size)
    x, y, _ = data.split("inner_train")
    test, test_y, _ = data.split("test")
    return Images(
        x[:most].flatten(1).contiguous(), y[:most],
        test[:most].flatten(1).contiguous(), test_y[:most],
    )  # fmt: skip
