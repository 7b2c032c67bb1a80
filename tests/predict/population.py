"""Small networks with a property that can be read off their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INPUTS = (torch.zeros(2, 3),)


def mlp(width: int, depth: int = 1) -> nn.Sequential:
    """3 inputs, 2 outputs."""
    layers: list[nn.Module] = []
    size = 3
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.Tanh()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 2))


def population(count: int = 48, seed: int = 0) -> tuple[list[nn.Module], Tensor]:
    """MLPs of three architectures, and the log of how much their weights were scaled."""
    generator = torch.Generator().manual_seed(seed)
    models: list[nn.Module] = []
    targets = torch.randn(count, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, target in enumerate(targets.tolist()):
            model = mlp(4 + number % 2, 1 + number % 3 // 2)
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(torch.tensor(target).exp())
            models.append(model)
    return models, targets
