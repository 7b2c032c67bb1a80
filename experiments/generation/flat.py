"""Flow matching on flattened weights: what knows nothing of neurons."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gmn_opt.generate import Units
from gmn_opt.generate.velocity import TIME_FEATURES, gaussian_part, time_features
from gmn_opt.graph import ParameterGraph


class FlatField(nn.Module):
    """An MLP from a flattened network in units ``[B, P]`` and a time ``[B]`` to a velocity."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(size + TIME_FEATURES, width)
        self.second = nn.Linear(width + TIME_FEATURES, width)
        self.last = nn.Linear(width, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, values: Tensor, time: Tensor) -> Tensor:
        """See the class; on top of the velocity between two Gaussians, as in our field."""
        known = time_features(time)
        x = nn.functional.silu(self.first(torch.cat([values, known], -1)))
        x = x + nn.functional.silu(self.second(torch.cat([x, known], -1)))
        out: Tensor = self.last(x)
        return out + gaussian_part(time).unsqueeze(-1) * values


def fit_flat(
    flat: Tensor, graph: ParameterGraph, width: int, steps: int, seed: int,
    batch: int = 32, rate: float = 2e-3,
) -> FlatField:  # fmt: skip
    """Fitted to networks ``[N, P]`` in units by the loss and the schedule of our generator."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        field = FlatField(flat.shape[1], width)
    optimizer = torch.optim.AdamW(field.parameters(), rate, weight_decay=0.0, fused=True)
    warm = max(1.0, 0.05 * steps)
    for step in range(steps):
        data = flat[torch.randint(len(flat), (batch,), generator=random)]
        noise = torch.randn(data.shape, generator=random)
        time = (torch.arange(batch) / batch + torch.rand(1, generator=random)) % 1
        at = noise + time.unsqueeze(1) * (data - noise)
        loss = (field(at, time) - (data - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(field.parameters(), 1.0)
        along = (step - warm) / (steps - warm + 1)
        share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * along))
        optimizer.param_groups[0]["lr"] = rate * share
        optimizer.step()
    return field.requires_grad_(False)


@torch.no_grad()
def sample_flat(
    field: FlatField, units: Units, graph: ParameterGraph, count: int, steps: int, seed: int
) -> Tensor:
    """New networks ``[count, P]``, by Heun's method."""
    size = field.last.out_features
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    for i in range(steps):
        here, there = (torch.full((count,), (i + k) / steps) for k in (0, 1))
        v = field(x, here)
        x = x + (v + field(x + v / steps, there)) / (2 * steps)
    return units.back(graph, x)
