"""How a data set is shared out: gradients, validation, validation of meta-training, test."""

from __future__ import annotations

import torch
from torch import Tensor

from gmn_opt.meta import Split

SPLITS: tuple[Split, ...] = ("inner_train", "inner_valid", "outer_valid", "test")


def random_parts(count: int, shares: tuple[float, ...], seed: int = 0) -> dict[Split, Tensor]:
    """Indices 0 to ``count`` - 1 in a fixed random order, cut into the four splits.

    ``shares`` are those of all splits but the last, which takes the rest.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    sizes = [int(share * count) for share in shares]
    parts = order.split([*sizes, count - sum(sizes)])
    return dict(zip(SPLITS, parts, strict=True))
