"""Normalization whose statistics are set once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEAST, _MOST = 1e-4, 6.0


class Standardize(nn.Module):
    """``(x - mean) / std`` along the last axis, softly bounded, with statistics set once."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def set_from(self, x: Tensor, least: float = _LEAST) -> None:
        """Take the statistics of ``x`` [..., features]; what does not vary is left as it is."""
        flat = x.reshape(-1, x.shape[-1])
        std = flat.std(0, correction=0)
        self.mean.copy_(flat.mean(0))
        self.std.copy_(torch.where(std > least, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        """Standardize; beyond six deviations growth is logarithmic, so no outlier runs away."""
        z = (x - self.mean) / self.std
        return _MOST * torch.asinh(z / _MOST)
