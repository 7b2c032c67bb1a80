"""The networks that the demo trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """A network to train.

    Attributes:
        name: Short name, used on the command line and in the record.
        title: What people read.
        build: Makes the network with fresh weights from torch's global generator.
        cost: Rough time of a step relative to the MLP's; only the time left is guessed from it.
    """

    name: str
    title: str
    build: Callable[[], nn.Module]
    cost: float


def build_mlp() -> nn.Module:
    """One hidden layer of 128 neurons."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def build_cnn() -> nn.Module:
    """Two convolutions of 16 and 32 channels.

    Pooling comes before the ReLU: the maximum of the ReLUs is the ReLU of the maximum, and there
    is a quarter as much to rectify.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 5 * 5, 10),
    )


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("mlp", "MLP 784-128-10", build_mlp, cost=1.0),
        ModelSpec("cnn", "CNN, 16 and 32 channels", build_cnn, cost=6.0),
    )
}


def seeded_model(spec: ModelSpec, seed: int) -> nn.Module:
    """The network with the initial weights of this seed; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build()


def count_parameters(spec: ModelSpec) -> int:
    """How many numbers the optimizer has to choose."""
    return sum(parameter.numel() for parameter in seeded_model(spec, 0).parameters())
