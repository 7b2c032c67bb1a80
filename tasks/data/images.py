"""Grey image data sets, split once and for all for training, meta-training and tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gmn_opt.data import load_bundled, normalize
from gmn_opt.meta import Split
from tasks.data.extras import require
from tasks.data.photographs import TEXTURES, texture_patches

IMAGES = ("mnist", "fashion_mnist", "digits", "textures")
#: Shares of the training images: gradients of the inner loop, its own validation, and the
#: validation of meta-training. The data set's test images are the fourth split.
_SHARES = {"inner_train": 0.8, "inner_valid": 0.1, "outer_valid": 0.1}


@dataclass(frozen=True)
class SplitImages:
    """Normalized images ``[N, 1, size, size]`` and labels ``[N]`` per split."""

    images: dict[Split, Tensor]
    labels: dict[Split, Tensor]
    classes: int

    def split(self, name: Split) -> tuple[Tensor, Tensor, int]:
        """Images, labels and the number of classes."""
        return self.images[name], self.labels[name], self.classes


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    require("sklearn")
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    images = (images - images.mean()) / images.std()
    labels = torch.from_numpy(data.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return images[:1497], labels[:1497], images[1497:], labels[1497:]


def _textures(size: int) -> SplitImages:
    patches, labels = texture_patches()
    pixels = patches["inner_train"].float() / 255
    mean, std = float(pixels.mean()), float(pixels.std())
    images = {s: normalize(p, size, mean=mean, std=std) for s, p in patches.items()}
    return SplitImages(images, dict(labels), len(TEXTURES))


@cache
def images_of(name: str, size: int) -> SplitImages:
    """The images of ``name`` at ``size`` x ``size`` pixels.

    ``"mnist"`` and ``"fashion_mnist"`` are the bundled subsets, ``"digits"`` scikit-learn's (size 8
    only), ``"textures"`` patches of photographs, whose class is the photograph.

    Raises ValueError for another name or size.
    """
    if name == "textures":
        return _textures(size)
    if name == "digits":
        if size != 8:
            raise ValueError(f"The digits are 8x8 images, received size={size}.")
        train, labels, test, test_labels = _digits()
    elif name in ("mnist", "fashion_mnist"):
        data = load_bundled(name)
        mean, std = data.mean, data.std
        train = normalize(data.train_images, size, mean=mean, std=std)
        test = normalize(data.test_images, size, mean=mean, std=std)
        labels, test_labels = data.train_labels, data.test_labels
    else:
        raise ValueError(f"Unknown images {name!r}; choose one of {', '.join(IMAGES)}.")
    counts = [int(share * len(train)) for share in _SHARES.values()]
    counts[-1] = len(train) - sum(counts[:-1])
    images: dict[Split, Tensor] = {"test": test}
    targets: dict[Split, Tensor] = {"test": test_labels}
    for split, x, y in zip(_SHARES, train.split(counts), labels.split(counts), strict=True):
        images[split], targets[split] = x, y  # type: ignore[index]
    return SplitImages(images, targets, int(labels.max()) + 1)
