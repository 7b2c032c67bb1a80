"""Memory stays flat over 200 outer steps, whatever the estimator."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from gmn_opt.meta import (
    FullBackprop,
    GradientEstimator,
    MetaConfig,
    MetaTrainer,
    PersistentES,
    SmallRuleConfig,
    TruncatedBackprop,
    Uniform,
)
from tasks.classification import ImageClassification
from tests.meta.small_tasks import OneTask

STEPS = 200


def resident() -> float:
    """Memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def trainer_for(estimator: GradientEstimator) -> MetaTrainer:
    config = MetaConfig(
        meta_steps=STEPS,
        runs=2,
        max_networks=2,
        horizon=(4, 8),
        estimator=estimator,
        rule=SmallRuleConfig(4),
    )
    return MetaTrainer(OneTask(ImageClassification("digits", 8, (8,), batch_size=8)), config)


def growth(trainer: MetaTrainer, leak: Any = None) -> tuple[int, float]:
    """Live tensors and MiB that 150 outer steps add after 50 that fill all caches."""
    counts, sizes = [], []
    for _ in range(STEPS):
        trainer.meta_step()
        if leak is not None:
            leak.append(trainer.runs[0].state.theta.clone().repeat(64, 1))
        if trainer.step in (50, STEPS):
            counts.append(live_tensors())
            sizes.append(resident())
    return counts[1] - counts[0], sizes[1] - sizes[0]


@pytest.mark.parametrize(
    "estimator",
    [
        TruncatedBackprop(Uniform(2, 3)),
        TruncatedBackprop(Uniform(2, 3), second_order=True),
        pytest.param(FullBackprop(chunk=2), marks=pytest.mark.long),  # records every run anew
        PersistentES(windows=Uniform(2, 3)),
    ],
    ids=["first_order", "second_order", "full", "pes"],
)
def test_memory_is_flat(estimator: GradientEstimator) -> None:
    trainer = trainer_for(estimator)
    tensors, mebibytes = growth(trainer)
    assert trainer.counts["finished"] > 40  # tasks came and went
    # open runs differ in phase and so by a few tensors
    assert tensors < 12
    assert mebibytes < 12


def test_a_leak_would_be_found() -> None:
    leak: list[torch.Tensor] = []
    # resident memory tells less here: a process that ran for long has room for such a leak
    tensors, _ = growth(trainer_for(TruncatedBackprop(Uniform(2, 3))), leak)
    assert tensors >= 150 - 12
