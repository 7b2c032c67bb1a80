"""One of several processes: ``python -m tests.meta.worker RANK SIZE STORE OUT ESTIMATOR``.

Makes three outer steps in float64 and saves what it found.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gmn_opt.meta import (
    GradientEstimator,
    MetaConfig,
    MetaTrainer,
    PersistentES,
    TruncatedBackprop,
    Uniform,
)
from gmn_opt.optim import RuleConfig
from tasks.suites import validation
from tests.meta.small_tasks import CNN, MLP, Float64, like

ESTIMATORS: dict[str, GradientEstimator] = {
    "backprop": TruncatedBackprop(Uniform(2, 4), second_order=True),
    "pes": PersistentES(windows=Uniform(2, 4)),
}


class Alternating:
    """Draws one of two tasks."""

    def sample(self, generator: torch.Generator) -> Float64:
        return self.restore(
            {"kind": ("mlp", "cnn")[int(torch.rand((), generator=generator) < 0.5)]}
        )

    def restore(self, spec: dict[str, Any]) -> Float64:
        task = {"mlp": MLP, "cnn": CNN}[spec["kind"]]
        return like(Float64, task)


def config_for(estimator: str, meta_batch: int = 4) -> MetaConfig:
    """Four runs, all visited in every outer step."""
    return MetaConfig(
        meta_steps=9,
        runs=4,
        meta_batch=meta_batch,
        max_networks=2,
        horizon=(4, 8),
        warmup=1,
        estimator=ESTIMATORS[estimator],
        validate_every=0,
        validation_steps=3,
        validation_networks=1,
        dtype="float64",
        rule=RuleConfig(hidden=6, edge_hidden=3, layers=1),
    )


def work(estimator: str) -> dict[str, Any]:
    """Meta-gradient of the first outer step, meta-parameters after two more, one validation."""
    trainer = MetaTrainer(Alternating(), config_for(estimator), validation=validation()[:3])
    first, reports = trainer.meta_gradient()
    steps = [trainer.meta_step().to_dict() for _ in range(2)]
    return {
        "gradient": first,
        "tasks": [r.task for r in reports],
        "steps": steps,
        "score": trainer.validate(),
        "state": trainer.state_dict(),
    }


if __name__ == "__main__":
    rank, size, store, out, estimator = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(size)
    )
    torch.save(work(estimator), Path(out) / f"{rank}.pt")
    dist.destroy_process_group()
