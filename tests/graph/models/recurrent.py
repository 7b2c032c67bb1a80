"""Recurrent networks and state space models."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.rnn, self.out = kind(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class DeepLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].mean(1))


class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 6)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.out(h)


class LSTMCellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTMCell(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        assert state is not None
        return self.out(state[0])


class DiagonalSSM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(4, 6), nn.Linear(6, 2)
        self.log_a = nn.Parameter(torch.randn(6, 3))
        self.b, self.c = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.enter(x))
        a = torch.exp(-torch.exp(self.log_a))
        state = x.new_zeros(x.shape[0], 6, 3)
        ys = []
        for t in range(x.shape[1]):
            step = x[:, t]
            state = a * state + step[..., None] * self.b(step)[:, None]
            ys.append((state * self.c(step)[:, None]).sum(-1))
        return self.out(torch.stack(ys, 1))
