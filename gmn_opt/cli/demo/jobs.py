"""Many runs at once: worker processes that all train under the same conditions.

Nets this small gain nothing from a second thread (the MLP gets slower), but two processes of one
thread train twice as many. Every contestant is timed in such a process, beside its like.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gmn_opt.cli.demo.contestants import Contestant
from gmn_opt.cli.demo.data import load_demo_data
from gmn_opt.cli.demo.models import MODELS
from gmn_opt.cli.demo.training import Progress, RunResult, Settings, train_run

_MOST_WORKERS = 8
_PATIENCE = 0.5


@dataclass(frozen=True)
class Job:
    """One run to do."""

    model: str
    contestant: Contestant
    seed: int

    def run(self, settings: Settings, report: Callable[[Progress], None]) -> RunResult:
        """Do it in this process."""
        data = load_demo_data()
        return train_run(MODELS[self.model], self.contestant, data, self.seed, settings, report)


@dataclass(frozen=True)
class _Failure:
    job: Job
    message: str
    trace: str


class JobError(RuntimeError):
    """A run raised, or its process died."""


def usable_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        yield from _run_here(jobs, settings, report, threads)
        return
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    count = min(workers, len(jobs))
    for job in (*jobs, *[None] * count):
        tasks.put(job)
    processes = [
        context.Process(target=_work, args=(tasks, events, settings, threads), daemon=True)
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        missing = len(jobs)
        while missing:
            event = _next_event(events, processes)
            if isinstance(event, Progress):
                report(event)
            elif isinstance(event, RunResult):
                missing -= 1
                yield event
            elif isinstance(event, _Failure):
                raise _error(event)
    finally:
        tasks.cancel_join_thread()
        _stop(processes, politely=missing == 0)


def _run_here(
    jobs: Sequence[Job], settings: Settings, report: Callable[[Progress], None], threads: int
) -> Iterator[RunResult]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for job in jobs:
            try:
                result = job.run(settings, report)
            except Exception as error:
                raise _error(_describe(job, error)) from error
            yield result
    finally:
        torch.set_num_threads(before)


def _work(tasks: Any, events: Any, settings: Settings, threads: int) -> None:
    """What a worker process does: jobs until there is None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    while (job := tasks.get()) is not None:
        try:
            events.put(job.run(settings, events.put))
        except Exception as error:
            events.put(_describe(job, error))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, killed without a chance to say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _describe(job: Job, error: Exception) -> _Failure:
    return _Failure(job, f"{type(error).__name__}: {error}", traceback.format_exc())


def _error(failure: _Failure) -> JobError:
    job = failure.job
    error = JobError(f"{job.contestant.title} on {job.model}, seed {job.seed}: {failure.message}")
    error.add_note(failure.trace)
    return error


def _next_event(events: Any, processes: Sequence[Any]) -> object:
    """Wait for an event, unless a process has died."""
    while True:
        dead = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
        if dead:
            raise JobError(
                f"a worker process ended with exit code {dead[0]}; memory may have run out: "
                "try --workers 1"
            )
        try:
            return events.get(timeout=_PATIENCE)
        except queue.Empty:
            continue


def _stop(processes: Sequence[Any], *, politely: bool) -> None:
    for process in processes:
        if politely:
            process.join(timeout=5)
        if process.is_alive():
            process.terminate()
            process.join()
