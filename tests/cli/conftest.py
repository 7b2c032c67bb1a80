"""Invented runs, so that figures and displays are tested without training."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gmn_opt.cli.contest import LEARNED, RATES, adamw
from gmn_opt.cli.demo.training import RunResult

MakeRuns = Callable[..., list[RunResult]]

_FINAL = {"gmn": 0.20, "gmn_total_steps": 0.18, "gmn_initial": 0.40}
_GRID = {3e-4: 0.5, 1e-3: 0.4, 3e-3: 0.25, 1e-2: 0.3, 3e-2: 0.6}


def make_run(contestant: str, seed: int, final: float, model: str = "mlp") -> RunResult:
    """A run of four steps that falls evenly from 2.3 to its final loss."""
    curve = [2.3 + (final - 2.3) * i / 4 for i in range(5)]
    return RunResult(
        model=model,
        contestant=contestant,
        seed=seed,
        batch_losses=curve[:-1],
        probe_steps=[0, 1, 2, 3, 4],
        probe_losses=curve,
        test_accuracy=1 - final / 2,
        test_loss=final,
        seconds=1.5,
        cpu_seconds=1.4,
    )


@pytest.fixture
def make_runs() -> MakeRuns:
    """All runs on one model; seeds differ by 0.01, figures may be replaced by name."""

    def make(seeds: int = 3, model: str = "mlp", **final: float) -> list[RunResult]:
        losses = {c.name: _FINAL[c.name] for c in LEARNED}
        losses |= {adamw(rate).name: _GRID[rate] for rate in RATES}
        losses |= final
        return [
            make_run(name, seed, loss + 0.01 * seed, model)
            for name, loss in losses.items()
            for seed in range(seeds)
        ]

    return make
