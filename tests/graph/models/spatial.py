"""Models on graphs and coordinates, and models with parameters laid out in space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = torch.relu(adjacency @ self.a(x))
        return adjacency @ self.b(x)


class Triplane(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.planes = nn.Parameter(torch.randn(3, 4, 5, 5))
        self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        views = torch.stack([x[:, [0, 1]], x[:, [0, 2]], x[:, [1, 2]]])
        found = F.grid_sample(self.planes, views[:, :, None], align_corners=True)
        return self.net(found.squeeze(-1).sum(0).t())


class FeatureGrid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.randn(1, 4, 5, 5))
        self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        found = F.grid_sample(self.grid, x[None, :, None], align_corners=True)
        return self.net(found[0, :, :, 0].t())


class Positional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(4, 6), nn.Linear(6, 2)
        self.positions = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.enter(x) + self.positions))
