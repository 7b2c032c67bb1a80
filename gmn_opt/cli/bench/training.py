"""One training run as a user would write it, measured."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from gmn_opt.cli.bench.contestants import Driver

_WARM_STEPS = 3
"""First steps that do not count in times per step: imports, tracing, allocation."""
_THINNED = 60


@dataclass
class Problem:
    """A network and what it is trained on.

    Attributes:
        model: The network, freshly initialized.
        loss: From the model and a batch to a scalar, with a graph to differentiate.
        batches: As many batches as there are steps, or more.
        probe: Loss on fixed training examples; measured while the watch stands still.
        inputs: Positional arguments of one forward pass.
        named: Its arguments by name.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    batches: Iterator[Any]
    probe: Callable[[], float]
    inputs: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a run gave; times are those of making the optimizer and training, nothing else.

    Attributes:
        steps: After how many steps the training loss was measured, from 0 on.
        losses: The training loss then; shorter than planned for a run that broke.
        seconds: Time until then.
        minibatch: Minibatch losses, averaged over stretches of equal length.
        optimizer_ms: Mean time of the optimizer's (and scheduler's) step, the first few left out.
        step_ms: The same of a whole training step.
        broke: The step whose loss was not finite, None if all were.
        warnings: Texts of warnings, each once.
    """

    steps: list[int]
    losses: list[float]
    seconds: list[float]
    minibatch: list[float]
    optimizer_ms: float
    step_ms: float
    broke: int | None
    warnings: list[str]

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite, or the run ended above where it began."""
        last = self.losses[-1]
        return self.broke is not None or not math.isfinite(last) or last > self.losses[0]


class Stopped(Exception):
    """The run was asked to stop before its end."""


def train(
    problem: Problem,
    make: Callable[[], Driver],
    steps: int,
    *,
    probes: int,
    clock: Callable[[], float] = time.perf_counter,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train ``problem.model`` for ``steps`` steps with the optimizer that ``make`` makes.

    A run ends at the first loss that is not finite. At the end the weights to be judged by are in
    place. Raises Stopped when ``stop`` says so.
    """
    measure = {round(steps * (i + 1) / min(probes, steps)) for i in range(min(probes, steps))}
    at, losses, seconds = [0], [problem.probe()], [0.0]
    minibatch: list[float] = []
    spent = updating = late = 0.0
    broke = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begun = clock()
        driver = make()
        spent += clock() - begun
        for step in range(1, steps + 1):
            if stop():
                raise Stopped
            begun = clock()
            loss, update = _step(problem, driver, clock)
            took = clock() - begun
            spent += took
            if step > _WARM_STEPS:
                updating, late = updating + update, late + took
            if not math.isfinite(loss):
                broke = step
                break
            minibatch.append(loss)
            if step in measure:
                driver.eval()
                at.append(step)
                losses.append(problem.probe())
                seconds.append(spent)
                if step < steps:
                    driver.train()
    count = max(1, len(minibatch) - _WARM_STEPS)
    return Outcome(
        at, losses, seconds, _thinned(minibatch), 1e3 * updating / count, 1e3 * late / count, broke,
        sorted({str(item.message) for item in caught}),
    )  # fmt: skip


def _step(problem: Problem, driver: Driver, clock: Callable[[], float]) -> tuple[float, float]:
    """The loss before the update, and the time that the update took."""
    driver.optimizer.zero_grad()
    loss = problem.loss(problem.model, next(problem.batches))
    loss.backward()
    value = loss.item()
    if not math.isfinite(value):
        return value, 0.0
    begun = clock()
    driver.step()
    return value, clock() - begun


def _thinned(values: list[float]) -> list[float]:
    """At most ``_THINNED`` means over neighbouring stretches."""
    if not values:
        return []
    ends = [round(len(values) * (i + 1) / _THINNED) for i in range(_THINNED)]
    cuts = sorted({0, *ends})
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
