"""A GRU language model (Cho et al. 2014, arXiv 1406.1078), its cell written with linear layers.

``nn.GRU`` is one opaque operator that ``vmap`` cannot batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """Embedding, one layer of gated recurrent units, a linear head.

    As in ``torch.nn.GRU`` the reset gate acts behind the recurrent matrix of the candidate.
    """

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.reset_in, self.update_in, self.new_in = (nn.Linear(width, width) for _ in range(3))
        self.reset, self.update, self.new = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        """Symbols ``[N, T]`` to logits of the next ones, ``[N, T, symbols]``."""
        seen = self.embed(x)
        # what does not depend on the state is computed for all places at once
        resets, updates, news = self.reset_in(seen), self.update_in(seen), self.new_in(seen)
        h = torch.zeros_like(seen[:, 0])
        states = []
        for t in range(x.shape[1]):
            r = torch.sigmoid(resets[:, t] + self.reset(h))
            z = torch.sigmoid(updates[:, t] + self.update(h))
            n = torch.tanh(news[:, t] + r * self.new(h))
            h = n + z * (h - n)
            states.append(h)
        return self.head(torch.stack(states, 1))
