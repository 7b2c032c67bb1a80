"""The whole contest: all contestants on all models, the grid included, and the summaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gmn_opt.cli.contest import LEARNED, RATES, Contestant, adamw
from gmn_opt.cli.demo.jobs import Job, run_jobs
from gmn_opt.cli.demo.live import View
from gmn_opt.cli.demo.summary import ModelSummary, summarize, tuning_of
from gmn_opt.cli.demo.training import RunResult, Settings

_MOST_EXTENSIONS = 2


@dataclass(frozen=True)
class Plan:
    """What to run, and with what.

    Attributes:
        models: Names of the models.
        seeds: How many seeds, counted from 0.
        settings: Common to all runs.
        workers: Processes; with 0, everything happens in this one.
        threads: Torch's threads per process.
    """

    models: tuple[str, ...]
    seeds: int
    settings: Settings
    workers: int
    threads: int = 1

    def jobs(self, models: Sequence[str], contestants: Sequence[Contestant]) -> list[Job]:
        """The runs of these contestants, seed by seed, each model's together."""
        seeds = range(self.seeds)
        return [Job(m, c, seed) for seed in seeds for m in models for c in contestants]


def run_contest(plan: Plan, view: View) -> list[ModelSummary]:
    """Do all runs, and more AdamW rates where the best lies at the edge of its grid.

    AdamW at its default rate is one of the grid, and is run once for both roles.
    """
    rates = {model: list(RATES) for model in plan.models}
    runs = _run(plan, plan.jobs(plan.models, [*LEARNED, *map(adamw, RATES)]), view)
    for _ in range(_MOST_EXTENSIONS):
        jobs: list[Job] = []
        for model in plan.models:
            extra = tuning_of(_on(runs, model), rates[model]).next_rate
            if extra is not None:
                rates[model].append(extra)
                jobs += plan.jobs([model], [adamw(extra)])
        if not jobs:
            break
        runs += _run(plan, jobs, view)
    return [summarize(model, _on(runs, model), rates[model]) for model in plan.models]


def _run(plan: Plan, jobs: list[Job], view: View) -> list[RunResult]:
    view.expect(jobs)
    results = []
    for result in run_jobs(
        jobs, plan.settings, view.progress, workers=plan.workers, threads=plan.threads
    ):
        view.done(result)
        results.append(result)
    return results


def _on(runs: Sequence[RunResult], model: str) -> list[RunResult]:
    return [run for run in runs if run.model == model]
