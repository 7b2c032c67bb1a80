from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from gmn_opt.cli.demo import plan as plans
from gmn_opt.cli.demo.jobs import Job
from gmn_opt.cli.demo.live import View
from gmn_opt.cli.demo.plan import Plan, run_contest
from gmn_opt.cli.demo.summary import BEST
from gmn_opt.cli.demo.training import RunResult, Settings


def fake_run(job: Job) -> RunResult:
    """On the MLP the lower rates are better without end, on the CNN 3e-3 is best."""
    rate = job.contestant.rate or 1e-3
    final = rate if job.model == "mlp" else abs(rate - 3e-3) + 0.1
    name = job.contestant.name
    return RunResult(job.model, name, job.seed, [1.0], [0, 5], [1.0, final], 0, 1, 1, 1)


def test_grid_is_extended_only_where_its_best_lies_at_an_edge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds: list[Sequence[Job]] = []

    def run_jobs(jobs: Sequence[Job], *args: object, **kwargs: object) -> list[RunResult]:
        rounds.append(jobs)
        return [fake_run(job) for job in jobs]

    monkeypatch.setattr(plans, "run_jobs", run_jobs)
    stream = io.StringIO()
    plan = Plan(("mlp", "cnn"), seeds=2, settings=Settings(5), workers=0)
    mlp, cnn = run_contest(plan, View(Console(file=stream), 5))

    assert [len(jobs) for jobs in rounds] == [2 * 2 * 8, 2, 2]
    assert {(job.model, job.contestant.rate) for job in rounds[1]} == {("mlp", 1e-4)}
    assert mlp.tuning.at_edge  # it gives up after two more, and says so
    assert mlp.standing(BEST).title == "AdamW, best rate (3e-5) !"
    assert cnn.standing(BEST).title == "AdamW, best rate (3e-3)"
    assert len(stream.getvalue().splitlines()) == 36
