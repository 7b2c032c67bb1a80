"""The images that populations are trained on: small, normalized, of the bundled sets."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from experiments.zoo.training import Images
from gmn_opt.data import load_bundled

#: Test images by which every network is judged.
JUDGED = 1000


@cache
def images(name: str, size: int) -> Images:
    """Bundled set ``name`` averaged down to ``size`` x ``size`` pixels of mean 0 and deviation 1.

    Raises ValueError for a set that is not bundled.
    """
    data = load_bundled(name)

    def small(pixels: Tensor) -> Tensor:
        return adaptive_avg_pool2d(pixels.float().unsqueeze(1) / 255, size)

    train, test = small(data.train_images), small(data.test_images[:JUDGED])
    std, mean = torch.std_mean(train)
    return Images(
        (train - mean) / std, data.train_labels, (test - mean) / std, data.test_labels[:JUDGED]
    )
