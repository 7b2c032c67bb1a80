"""Short runs of ``experiments.meta_train`` on two tiny tasks, and what they leave.

The tasks are the same objects in every run of a process, so that what is worked out once for a task
(its graph, its checks, its recorded gradients) is not worked out again for every test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from experiments import meta_train
from experiments.plot_meta_training import read_log
from gmn_opt.meta.checkpoint import load_checkpoint
from tasks.base import DataTask
from tasks.classification import ImageClassification
from tasks.tabular import Tabular
from tests.experiments.processes import Run

STEPS = 7
ARGUMENTS = ["--preset", "smoke", "--device", "cpu", "--meta-steps", str(STEPS), "--no-validate"]
TASKS: list[DataTask] = [
    ImageClassification("mnist", 8, (6,), batch_size=8),
    Tabular("diabetes", (8,), batch_size=8, feature_noise=0.2),
]


class TwoTasks:
    """In place of the suite of hundreds."""

    def sample(self, generator: torch.Generator) -> DataTask:
        return TASKS[int(torch.randint(2, (), generator=generator))]

    def restore(self, spec: dict[str, Any]) -> DataTask:
        spec = json.loads(json.dumps(spec))
        return next(t for t in TASKS if json.loads(json.dumps(t.spec())) == spec)


def use_two_tasks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(meta_train, "MetaTrainSuite", TwoTasks)
    patch.setattr(meta_train, "validation", lambda: TASKS[:1])


def invoke(*arguments: str | Path) -> Result:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        use_two_tasks(patch)
        return CliRunner().invoke(meta_train.app, [str(a) for a in arguments])


def start(folder: Path, *more: str, steps: int = STEPS, **environ: str) -> Run:
    """The command in a process of its own, with a checkpoint after every outer step."""
    arguments = [*ARGUMENTS, "--checkpoint-minutes", "0", "--meta-steps", str(steps), *more]
    return Run(folder, arguments, **environ)


def meta_parameters(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def log_of(folder: Path) -> list[dict[str, Any]]:
    return read_log(folder / "log.jsonl")


def step_of(folder: Path) -> int:
    """The outer step of its checkpoint."""
    step: int = load_checkpoint(folder / "checkpoint.pt")["trainer"]["step"]
    return step
