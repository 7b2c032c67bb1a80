"""Networks whose weights are computed: from other weights, by masks, by other networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.a = norm(nn.Linear(4, 6))
        self.b = norm(nn.Linear(6, 5), dim=1)
        self.c = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 6)
        self.down = nn.Parameter(torch.randn(2, 4))
        self.up = nn.Parameter(torch.randn(6, 2))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base.weight + self.up @ self.down
        return self.out(torch.relu(F.linear(x, weight, self.base.bias)))


class HyperNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(2, 4 * 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        weight = self.make(z).view(-1, 6, 4)
        return self.out(torch.relu(torch.bmm(weight, x[:, :, None])[..., 0]))


class SpectralNorm(nn.Module):
    """The power iteration's vectors are buffers, so the check needs them to move too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6))
        self.b = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class MaskedWeight(nn.Module):
    """A weight times a mask, as in pruning: the mask moves along with the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.register_buffer("mask", torch.tensor([[1.0], [0], [1], [1], [0], [1]]))

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask
        assert isinstance(mask, Tensor)
        x = torch.relu(F.linear(x, self.a.weight * mask, self.a.bias))
        return self.c(torch.relu(self.b(x)))
