"""Many runs at once: worker processes that all train under the same conditions.

Nets this small gain nothing from a second thread (the MLP gets slower), but two processes of one
thread train twice as many. Every contestant is timed in such a process, beside its like.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from gmn_opt.cli.contest import Contestant
from gmn_opt.cli.demo.data import load_demo_data
from gmn_opt.cli.demo.models import MODELS
from gmn_opt.cli.demo.training import Progress, RunResult, Settings, train_run
from gmn_opt.cli.workers import begin_worker, usable_cores

_MOST_WORKERS = 8
_PATIENCE = 0.25


@dataclass(frozen=True)
class Job:
    """One run to do."""

    model: str
    contestant: Contestant
    seed: int

    def run(self, settings: Settings, report: Callable[[Progress], None]) -> RunResult:
        """Do it in this process; raises JobError for whatever goes wrong."""
        data = load_demo_data()
        try:
            return train_run(MODELS[self.model], self.contestant, data, self.seed, settings, report)
        except Exception as error:
            raise JobError(
                f"{self.contestant.title} on {self.model}, seed {self.seed}: "
                f"{type(error).__name__}: {error}"
            ) from error


class JobError(RuntimeError):
    """A run raised, or its process died."""


def default_workers() -> int:
    """One worker per usable core, within reason."""
    return min(usable_cores(), _MOST_WORKERS)


def run_jobs(
    jobs: Sequence[Job],
    settings: Settings,
    report: Callable[[Progress], None],
    *,
    workers: int,
    threads: int = 1,
) -> Iterator[RunResult]:
    """Do all jobs and give each result as it comes.

    Args:
        jobs: What to do; started in this order.
        settings: Common to all.
        report: Told of progress, always in the calling thread.
        workers: How many processes; with 0, this one does everything.
        threads: Torch's threads per process.

    Raises:
        JobError: A run failed; the other processes are ended first.
    """
    if workers < 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield from (job.run(settings, report) for job in jobs)
        finally:
            torch.set_num_threads(before)
        return
    context = multiprocessing.get_context("spawn")
    events = context.SimpleQueue()
    count = min(workers, len(jobs))
    with ProcessPoolExecutor(count, context, _begin, (events, threads)) as pool:
        waiting = {pool.submit(_work, job, settings) for job in jobs}
        try:
            while waiting:
                done, waiting = wait(waiting, _PATIENCE, FIRST_COMPLETED)
                while not events.empty():
                    report(events.get())
                yield from map(_result, done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _result(done: Future[RunResult]) -> RunResult:
    try:
        return done.result()
    except BrokenProcessPool as error:
        raise JobError(
            f"a worker process ended: {error} Memory may have run out: try --workers 1"
        ) from error


_EVENTS: list[Any] = []


def _begin(events: Any, threads: int) -> None:
    """What a worker process does first."""
    begin_worker(threads)
    _EVENTS.append(events)


def _work(job: Job, settings: Settings) -> RunResult:
    return job.run(settings, _EVENTS[0].put)
