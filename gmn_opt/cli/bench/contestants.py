"""Who is compared: optimizers with their schedules, and the grids that their rates are tuned on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gmn_opt.cli.bench.muon import MuonAdamW, hidden_matrices, matrices_by_class, split
from gmn_opt.cli.bench.schedules import warmup_cosine, warmup_steps

ADAMW_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
MUON_RATES = (0.005, 0.02, 0.05)


@dataclass(frozen=True)
class Setup:
    """What an optimizer is made from.

    Attributes:
        model: The network to train.
        inputs: Positional arguments of one forward pass, for tracing.
        steps: How long the training takes.
        rate: Learning rate; None for optimizers without one.
        weights: Weights of the learned rule, name or path.
        named: Arguments of that forward pass by name.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    steps: int
    rate: float | None = None
    weights: str = "default"
    named: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lr(self) -> float:
        """The rate of an optimizer that needs one; raises ValueError where none was given."""
        if self.rate is None:
            raise ValueError("This optimizer needs a rate.")
        return self.rate


class Driver:
    """An optimizer and its schedule as one.

    ``averaged`` optimizers (Schedule-Free) hold other weights to be judged by than to train with.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Callable[[int], float] | None = None,
        averaged: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self._scheduler = LambdaLR(optimizer, schedule) if schedule else None
        self._averaged = averaged
        self.train()

    def step(self) -> None:
        """One update, then the next rate."""
        self.optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()

    def train(self) -> None:
        """Put the weights to train with in place."""
        if self._averaged:
            self.optimizer.train()  # type: ignore[attr-defined]

    def eval(self) -> None:
        """Put the weights to be judged by in place."""
        if self._averaged:
            self.optimizer.eval()  # type: ignore[attr-defined]


def _gmn(setup: Setup, *, told: bool, weights: str | None = None) -> Driver:
    from gmn_opt.optim import GMNOptimizer

    steps = setup.steps if told else None
    given = setup.weights if weights is None else weights
    return Driver(GMNOptimizer(setup.model.parameters(), total_steps=steps, weights=given))


def _adamw(setup: Setup) -> Driver:
    return Driver(AdamW(setup.model.parameters(), lr=setup.lr))


def _adamw_cosine(setup: Setup) -> Driver:
    return Driver(AdamW(setup.model.parameters(), lr=setup.lr), warmup_cosine(setup.steps))


def _muon_cosine(setup: Setup) -> Driver:
    from gmn_opt.graph import TraceError, trace

    try:
        names = hidden_matrices(trace(setup.model, *setup.inputs, **setup.named))
    except TraceError:
        names = matrices_by_class(setup.model)
    return Driver(MuonAdamW(*split(setup.model, names), setup.lr), warmup_cosine(setup.steps))


def _soap(setup: Setup) -> Driver:
    from pytorch_optimizer.optimizer.soap import SOAP

    return Driver(SOAP(setup.model.parameters(), lr=setup.lr), warmup_cosine(setup.steps))


def _schedule_free(setup: Setup) -> Driver:
    from pytorch_optimizer.optimizer.schedulefree import ScheduleFreeAdamW

    rise = warmup_steps(setup.steps)
    optimizer = ScheduleFreeAdamW(setup.model.parameters(), lr=setup.lr, warmup_steps=rise)
    return Driver(optimizer, averaged=True)


#: How to train, by the name that a cell is recorded under.
METHODS: dict[str, Callable[[Setup], Driver]] = {
    "gmn_total_steps": partial(_gmn, told=True),
    "gmn": partial(_gmn, told=False),
    "gmn_initial_total_steps": partial(_gmn, told=True, weights="initial"),
    "gmn_initial": partial(_gmn, told=False, weights="initial"),
    "adamw": _adamw,
    "adamw_cosine": _adamw_cosine,
    "muon_cosine": _muon_cosine,
    "soap": _soap,
    "schedule_free": _schedule_free,
}


@dataclass(frozen=True)
class Contestant:
    """One column of the tables.

    Attributes:
        name: What the command line and records call it.
        title: What people read.
        method: A key of ``METHODS``. Two contestants may share one, and then share its runs.
        rates: The grid to tune on; one rate is taken as it is; empty where there is none to set.
    """

    name: str
    title: str
    method: str
    rates: tuple[float, ...] = ()

    @property
    def tuned(self) -> bool:
        """Whether there is something to choose."""
        return len(self.rates) > 1

    @property
    def learned(self) -> bool:
        """Whether it is the learned rule, trained or not."""
        return self.method.startswith("gmn")


CONTESTANTS: dict[str, Contestant] = {
    c.name: c
    for c in (
        Contestant("gmn_total_steps", "GMN, total_steps", "gmn_total_steps"),
        Contestant("gmn", "GMN", "gmn"),
        Contestant(
            "gmn_initial_total_steps", "GMN untrained, total_steps", "gmn_initial_total_steps"
        ),
        Contestant("gmn_initial", "GMN untrained", "gmn_initial"),
        Contestant("adamw_default", "AdamW 1e-3", "adamw", (1e-3,)),
        Contestant("adamw", "AdamW, tuned", "adamw", ADAMW_RATES),
        Contestant("adamw_cosine", "AdamW cosine, tuned", "adamw_cosine", ADAMW_RATES),
        Contestant("muon_cosine_fixed", "Muon cosine 0.02", "muon_cosine", (0.02,)),
        Contestant("muon_cosine", "Muon cosine, tuned", "muon_cosine", MUON_RATES),
        Contestant("soap", "SOAP cosine, tuned", "soap", (1e-3, 3e-3, 1e-2)),
        Contestant("schedule_free", "Schedule-Free, tuned", "schedule_free", (1e-3, 3e-3, 1e-2)),
    )
}
_EXTRA = ("soap", "schedule_free")


def choose(names: list[str]) -> list[Contestant]:
    """The contestants of these names, each once.

    Raises:
        ValueError: an unknown name.
        ImportError: one that comes from a package that is not installed.
    """
    for name in names:
        if name not in CONTESTANTS:
            raise ValueError(f"Unknown optimizer {name!r}; choose among {', '.join(CONTESTANTS)}.")
    chosen = [CONTESTANTS[name] for name in dict.fromkeys(names)]
    needing = [c.name for c in chosen if c.method in _EXTRA]
    if needing and importlib.util.find_spec("pytorch_optimizer") is None:
        raise ImportError(
            f"{' and '.join(needing)} come from the package pytorch_optimizer, which is not "
            "installed. Install it with pip install 'gmn-opt[baselines]', or leave them out."
        )
    return chosen
