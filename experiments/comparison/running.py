"""One cell: the task's own module, trained as a user would, and judged on fixed examples."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experiments.comparison.cells import Cell
from experiments.frame import keep_freed_memory
from gmn_opt.cli.bench.contestants import METHODS, Setup
from gmn_opt.cli.bench.training import Outcome, Problem, Stopped, train
from gmn_opt.cli.workers import begin_worker
from gmn_opt.meta import Batch, Split
from gmn_opt.meta.seeding import seeded
from tasks import registry
from tasks.base import DataTask
from tasks.language import SourceCode

_CHUNK = 250


@dataclass(frozen=True)
class Settings:
    """What all cells of a comparison have in common.

    Attributes:
        weights: Of the learned rule, name or path.
        probes: How often the training loss is measured along the way.
        judged: Examples at the end; a quarter of it for sequences.
        probed: Examples along the way; an eighth of it for sequences.
        seed: Added to the seeds.
    """

    weights: str = "default"
    probes: int = 20
    judged: int = 2000
    probed: int = 500
    seed: int = 0

    def examples(self, task: DataTask, split: Split, probe: bool) -> Batch:
        """Fixed examples of a split."""
        language = isinstance(task, SourceCode)
        if probe:
            return task.examples(split, max(1, self.probed // (8 if language else 1)))
        return task.examples(split, max(1, self.judged // (4 if language else 1)))


def run_cell(
    spec: dict[str, Any], cell: Cell, settings: Settings, deadline: float | None = None
) -> dict[str, Any] | None:
    """Train and judge; the record, or None if the deadline (``time.time``) came first."""
    task = registry.restore(spec)
    stop = partial(_should_stop, deadline)
    problem = problem_of(task, cell.seed + settings.seed, settings)
    setup = Setup(problem.model, problem.inputs, cell.length, cell.rate, settings.weights)
    with seeded(cell.seed + settings.seed):
        try:
            outcome = train(
                problem,
                partial(METHODS[cell.method], setup),
                cell.length,
                probes=settings.probes,
                clock=time.process_time,
                stop=stop,
            )
        except Stopped:
            return None
    return {**cell.to_json(), **judged(task, problem.model, outcome, settings)}


def problem_of(task: DataTask, seed: int, settings: Settings) -> Problem:
    """Initial weights and batches that depend on the seed alone."""
    with seeded(seed):
        model = task.build()
    fixed = settings.examples(task, "inner_train", True)
    return Problem(
        model=model,
        loss=lambda network, batch: task.judge(network(*task.inputs(batch)), batch),
        batches=_batches(task, torch.Generator().manual_seed(seed)),
        probe=lambda: evaluate(task, model, fixed)[0],
        inputs=task.example_inputs(),
    )


def _batches(task: DataTask, generator: torch.Generator) -> Iterator[Batch]:
    while True:
        yield {n: t[0] for n, t in task.batch("inner_train", 1, generator).items()}


@torch.no_grad()
def evaluate(task: DataTask, model: nn.Module, examples: Batch) -> tuple[float, float | None]:
    """Mean loss, and accuracy where there are classes; the model's mode is put back."""
    training = model.training
    model.eval()
    count = len(next(iter(examples.values())))
    loss, right, known = 0.0, 0.0, True
    for first in range(0, count, _CHUNK):
        batch = {n: t[first : first + _CHUNK] for n, t in examples.items()}
        share = len(next(iter(batch.values()))) / count
        output: Tensor = model(*task.inputs(batch))
        loss += share * float(task.judge(output, batch))
        accuracy = task.accuracy(output, batch)
        known = known and accuracy is not None
        right += share * float(accuracy) if accuracy is not None else 0.0
    model.train(training)
    return loss, right if known else None


def judged(
    task: DataTask, model: nn.Module, outcome: Outcome, settings: Settings
) -> dict[str, Any]:
    """The part of a record that the run gave; None stands for what is no number."""
    loss, _ = evaluate(task, model, settings.examples(task, "inner_train", False))
    test_loss, accuracy = evaluate(task, model, settings.examples(task, "test", False))
    broke = outcome.broke is not None
    return {
        "train_loss": None if broke else _number(loss),
        "test_loss": None if broke else _number(test_loss),
        "accuracy": None if broke else accuracy,
        "diverged": outcome.diverged,
        "broke_at": outcome.broke,
        "curve": {
            "steps": outcome.steps,
            "loss": [_number(x) for x in outcome.losses],
            "seconds": [round(x, 4) for x in outcome.seconds],
        },
        "minibatch": [_number(x) for x in outcome.minibatch],
        "optimizer_ms": round(outcome.optimizer_ms, 4),
        "step_ms": round(outcome.step_ms, 4),
        "warnings": outcome.warnings,
    }


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


# ---------------------------------------------------------------------- in a worker process

_stop_event: Any = None


def prepare_worker(event: Any) -> None:
    """One thread, and cells are dropped once ``event`` is set."""
    global _stop_event
    _stop_event = event
    begin_worker()
    keep_freed_memory()


def _should_stop(deadline: float | None) -> bool:
    if deadline is not None and time.time() > deadline:
        return True
    return _stop_event is not None and bool(_stop_event.is_set())
