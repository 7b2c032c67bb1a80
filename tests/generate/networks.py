"""Networks that the tests of generators use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace


def mlp(width: int = 5) -> nn.Sequential:
    """3 inputs, one hidden layer, 2 outputs."""
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))


def mlp_graph(width: int = 5) -> ParameterGraph:
    """The graph of :func:`mlp`."""
    return trace(mlp(width), torch.zeros(2, 3)).contract()


def mlps(count: int, width: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Random networks around one in a random order, ``{name: [count, *shape]}``."""
    random = torch.Generator().manual_seed(seed)
    graph = mlp_graph(width)
    base = {n: torch.randn(s, generator=random) for n, s in graph.shapes.items()}
    states = []
    for _ in range(count):
        near = {n: t + 0.1 * torch.randn(t.shape, generator=random) for n, t in base.items()}
        states.append(graph.permute(near, graph.random_symmetry(random)))
    return {n: torch.stack([s[n] for s in states]) for n in base}
