"""Many MLPs with one hidden layer on small images, trained and judged side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.zoo.images import Images
from gmn_opt.graph import ParameterGraph, trace

#: Parameters of K networks, ``{name: [K, *shape]}``.
Stacked = dict[str, Tensor]


def network(pixels: int, width: int, classes: int = 10) -> nn.Sequential:
    """One such MLP."""
    return nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))


def graph_of(pixels: int, width: int) -> ParameterGraph:
    """The parameter graph of :func:`network`."""
    return trace(network(pixels, width), torch.zeros(2, pixels)).contract()


def initial(count: int, pixels: int, width: int, seed: int) -> Stacked:
    """Networks as torch initializes them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        states = [network(pixels, width).state_dict() for _ in range(count)]
    return {n: torch.stack([s[n] for s in states]) for n in states[0]}


def outputs(params: Stacked, x: Tensor) -> Tensor:
    """Logits ``[K, B, classes]`` for ``[B, pixels]``, or inputs of their own ``[K, B, pixels]``."""
    count = len(params["0.weight"])
    x = x if x.dim() == 3 else x.expand(count, -1, -1)
    hidden = torch.baddbmm(params["0.bias"].unsqueeze(1), x, params["0.weight"].mT).relu()
    return torch.baddbmm(params["2.bias"].unsqueeze(1), hidden, params["2.weight"].mT)


def train(
    params: Stacked,
    images: Images,
    steps: int,
    rate: float,
    seed: int,
    *,
    batch: int = 64,
    decay: bool = True,
    watch: Callable[[int, Stacked], None] | None = None,
) -> Stacked:
    """After ``steps`` of Adam, each network on batches of its own.

    With ``decay`` the rate falls to 0 in a straight line. ``watch`` is called after every step
    with its number and the networks.
    """
    random = torch.Generator().manual_seed(seed)
    own = {n: t.detach().clone().requires_grad_() for n, t in params.items()}
    optimizer = torch.optim.Adam(own.values(), rate, fused=True)
    count = len(own["0.weight"])
    for step in range(steps):
        chosen = torch.randint(len(images.labels), (count, batch), generator=random)
        found = outputs(own, images.train[chosen])
        # a mean over the batch and a sum over networks: none knows of the others
        loss = F.cross_entropy(found.flatten(0, 1), images.labels[chosen].flatten()) * count
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps) if decay else rate
        optimizer.step()
        if watch is not None:
            watch(step + 1, {n: t.detach() for n, t in own.items()})
    return {n: t.detach() for n, t in own.items()}


@torch.no_grad()
def predictions(params: Stacked, images: Images) -> Tensor:
    """Predicted classes of the test images, ``[K, M]``."""
    return outputs(params, images.test).argmax(-1)


def accuracies(params: Stacked, images: Images) -> Tensor:
    """Share of the test images that each network gets right, ``[K]``."""
    return (predictions(params, images) == images.test_labels).float().mean(1)


@torch.no_grad()
def losses(params: Stacked, images: Images) -> Tensor:
    """Cross entropy of each network on the test images, ``[K]``."""
    found = outputs(params, images.test)
    labels = images.test_labels.expand(len(found), -1)
    return F.cross_entropy(found.movedim(-1, 1), labels, reduction="none").mean(1)
