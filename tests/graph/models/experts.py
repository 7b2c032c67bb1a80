"""Networks of several parallel parts: mixtures of experts, stacks read one by one or at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StackedExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 4, 5))
        self.bias = nn.Parameter(torch.randn(3, 1, 5))
        self.down = nn.Parameter(torch.randn(3, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.baddbmm(self.bias, x.expand(3, -1, -1), self.up)
        return torch.bmm(torch.relu(hidden), self.down).sum(0)


class SoftMoE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 2)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(2)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        outs = torch.stack([e(x) for e in self.experts], -1)
        return self.head((outs * weights[:, None]).sum(-1))


class HardMoE(nn.Module):
    """Top-1 routing with Python loops; every expert gets some of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.router = nn.Linear(4, 6), nn.Linear(6, 2)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(2)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weight, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == i)
            out.index_add_(0, rows, expert(x[rows]) * weight[rows, None])
        return self.head(x + out)


class IndexedExperts(nn.Module):
    """Stacked weights that a loop reads expert by expert, as ``read`` says."""

    def __init__(self, read: str = "index") -> None:
        super().__init__()
        self.read = read
        self.router = nn.Linear(4, 3)
        self.up, self.bias = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(3, 5))
        self.down = nn.Parameter(torch.randn(3, 5, 6))
        self.enter, self.head = nn.Linear(4, 4), nn.Linear(6, 2)

    def expert(self, i: int) -> tuple[Tensor, ...]:
        """The weights of one expert."""
        stacked = (self.up, self.bias, self.down)
        if self.read == "index":
            return tuple(w[i] for w in stacked)
        if self.read == "list":
            return tuple(w[[i]].squeeze(0) for w in stacked)
        if self.read == "slice":
            return tuple(w[i : i + 1][0] for w in stacked)
        if self.read == "unbind":
            return tuple(w.unbind(0)[i] for w in stacked)
        return tuple(w.view(-1).view(w.shape)[i] for w in stacked)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weight, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros(len(x), 6, dtype=x.dtype)
        for i in range(3):
            (rows,) = torch.where(chosen == i)
            up, bias, down = self.expert(i)
            hidden = torch.relu(torch.addmm(bias, x[rows], up))
            out.index_add_(0, rows, hidden @ down * weight[rows, None])
        return self.head(out)


class GatheredExperts(nn.Module):
    """Stacked weights that data point into: each row of the input has matrices of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(3, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1)
        hidden = torch.relu(torch.bmm(x[:, None], self.up[chosen]))
        return torch.bmm(hidden, self.down[chosen])[:, 0]


class StackedLayers(nn.Module):
    """Square layers in one tensor, applied one after the other."""

    def __init__(self, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.enter, self.head = nn.Linear(4, 5), nn.Linear(5, 2)
        self.weight, self.bias = nn.Parameter(torch.randn(3, 5, 5)), nn.Parameter(torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for i in range(3):
            y = torch.tanh(F.linear(x, self.weight[i], self.bias[i]))
            x = x + y if self.residual else y
        return self.head(x)


class MaskMoE(HardMoE):
    """The outputs of the experts are written where a mask says."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        chosen = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            mask = chosen == i
            out[mask] = expert(x[mask])
        return self.head(x + out)
