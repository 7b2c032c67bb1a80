"""What is drawn for every network of a population, and the populations themselves.

A *batch* is trained at once, so its networks share an architecture and a data set; all else is
drawn for each network by itself: optimizer, rate, momentum, weight decay, steps, dropout, label
noise, scale of the initialization, share of the training data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from experiments.zoo.networks import Config

T = TypeVar("T")

OPTIMIZERS = ("sgd", "momentum", "adam", "rmsprop")
#: Log10 of the least and the largest rate.
_RATES = {"sgd": (-2.0, -0.2), "momentum": (-2.7, -0.9), "adam": (-3.5, -1.5), "rmsprop": (-4, -2)}


@dataclass(frozen=True)
class Setting:
    """How one network is trained. All values are plain, as the table of a zoo keeps them."""

    optimizer: str
    rate: float
    weight_decay: float
    steps: int
    dropout: float
    label_noise: float
    init_scale: float
    data_share: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """By name."""
        return asdict(self)


class Draw:
    """Random choices from one seed."""

    def __init__(self, *seed: int) -> None:
        value = 0
        for part in seed:
            value = (value * 1_000_003 + part + 1) % (2**63 - 1)
        self.generator = torch.Generator().manual_seed(value)

    def of(self, options: tuple[T, ...]) -> T:
        """One of these."""
        return options[int(torch.randint(len(options), (), generator=self.generator))]

    def uniform(self, low: float, high: float) -> float:
        """Between these."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        """Between these, uniform in the logarithm."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def whole(self, below: int) -> int:
        """0 to ``below`` - 1."""
        return int(torch.randint(below, (), generator=self.generator))


def setting(draw: Draw, most_steps: int) -> Setting:
    """How one network is trained, at random; a third of the knobs are off for any network."""
    optimizer = draw.of(OPTIMIZERS)
    low, high = _RATES[optimizer]
    return Setting(
        optimizer=optimizer,
        rate=10 ** draw.uniform(low, high),
        weight_decay=draw.of((0.0, 1.0)) * draw.log_uniform(1e-5, 1e-2),
        steps=max(1, round(draw.log_uniform(most_steps / 10, most_steps))),
        dropout=draw.of((0.0, 0.0, 1.0)) * draw.uniform(0.0, 0.5),
        label_noise=draw.of((0.0, 0.0, 1.0)) * draw.uniform(0.0, 0.8),
        init_scale=draw.log_uniform(0.3, 3.0) if draw.whole(2) else 1.0,
        data_share=draw.log_uniform(0.02, 1.0),
        seed=draw.whole(2**31),
    )


def _small_mlp(draw: Draw, number: int) -> Config:
    """One of sixteen, by turns."""
    widths, depths, activations = (8, 16, 24, 32), (1, 2), ("relu", "tanh")
    return {
        "kind": "mlp",
        "width": widths[number % 4],
        "depth": depths[number // 4 % 2],
        "activation": activations[number // 8 % 2],
    }


def _varying_cnn(draw: Draw, number: int) -> Config:
    return {
        "kind": "cnn",
        "width": draw.of((4, 6, 8, 12, 16)),
        "depth": draw.of((2, 3, 4)),
        "kernel": draw.of((3, 5)),
        "stride": draw.of((2, 2, 3)),
        "norm": draw.of((None, None, "batch", "group")),
        "activation": draw.of(("relu", "relu", "tanh", "silu", "gelu")),
    }


def _diverse(draw: Draw, number: int) -> Config:
    kind = ("cnn", "cnn1d", "deepsets", "resnet", "vit", "mlp", "gpt")[number % 7]
    if kind == "cnn":
        return _varying_cnn(draw, number)
    width = draw.of((8, 12, 16, 24, 32))
    config: Config = {"kind": kind, "activation": draw.of(("relu", "tanh", "silu", "gelu"))}
    if kind in ("vit", "gpt"):
        return {**config, "width": draw.of((16, 24, 32)), "depth": draw.of((1, 2)),
                "heads": draw.of((2, 4)), "patch": 7}  # fmt: skip
    if kind == "resnet":
        return {**config, "width": draw.of((4, 6, 8, 12)), "depth": draw.of((1, 2)), "kernel": 3,
                "norm": draw.of((None, "batch", "group"))}  # fmt: skip
    if kind == "cnn1d":
        config["kernel"] = draw.of((3, 5))
    return {**config, "width": width, "depth": draw.of((1, 2, 3))}


@dataclass(frozen=True)
class Population:
    """A kind of zoo: which architectures, which data, how long at most."""

    architecture: Callable[[Draw, int], Config]
    data: tuple[str, ...]
    size: int
    steps: int
    minibatch: int


POPULATIONS = {
    "mlps": Population(_small_mlp, ("fashion_mnist",), 8, 400, 16),
    "cnns": Population(_varying_cnn, ("fashion_mnist", "mnist"), 14, 400, 16),
    "diverse": Population(_diverse, ("fashion_mnist", "mnist"), 14, 300, 16),
}


@dataclass(frozen=True)
class BatchPlan:
    """Networks that are trained at once."""

    number: int
    data: str
    size: int
    config: Config
    settings: tuple[Setting, ...]
    minibatch: int


def plan(population: str, number: int, networks: int, seed: int) -> BatchPlan:
    """Batch ``number`` of a zoo; the same for the same arguments, whatever was made before.

    Raises ValueError for a population that there is not.
    """
    if population not in POPULATIONS:
        raise ValueError(
            f"Unknown population {population!r}; choose one of {', '.join(POPULATIONS)}."
        )
    kind = POPULATIONS[population]
    draw = Draw(seed, number)
    config, data = kind.architecture(draw, number), draw.of(kind.data)
    settings = tuple(setting(draw, kind.steps) for _ in range(networks))
    return BatchPlan(number, data, kind.size, config, settings, kind.minibatch)
