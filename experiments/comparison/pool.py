"""All open cells of a plan, in worker processes, until they are done or the time is over."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from experiments.comparison.cells import Cell, Plan
from experiments.comparison.running import Settings, prepare_worker, run_cell
from experiments.comparison.store import Store

Record = dict[str, Any]


class View(Protocol):
    """Told of what happens."""

    def running(self, cells: list[Cell], total: int, done: int) -> None:
        """These cells are being run."""

    def done(self, cell: Cell, record: Record) -> None:
        """A cell has ended."""

    def failed(self, cell: Cell, error: BaseException) -> None:
        """A cell raised."""


@dataclass
class Work:
    """What is to be done and what became of it.

    Attributes:
        plan: The cells.
        specs: Every task's spec by name.
        settings: Common to all.
        store: Where records go.
        view: Who is told.
        deadline: In the seconds of ``time.time``; cells that are not done by then are dropped.
        failed: Cells that raised; they are left out, and tried again when the run is resumed.
    """

    plan: Plan
    specs: Mapping[str, dict[str, Any]]
    settings: Settings
    store: Store
    view: View
    deadline: float | None = None
    failed: dict[Cell, str] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the time is."""
        return self.deadline is not None and time.time() >= self.deadline

    def take(self, running: list[Cell]) -> Cell | None:
        """The next cell to run, if there is time."""
        if self.over:
            return None
        return self.plan.next_cell(self.store.results, {*running, *self.failed})

    def arguments(self, cell: Cell) -> tuple[dict[str, Any], Cell, Settings, float | None]:
        """What `run_cell` takes."""
        return self.specs[cell.task], cell, self.settings, self.deadline

    def show(self, running: list[Cell]) -> None:
        """Tell the view how far it is."""
        done = sum(
            cell in self.store.results
            for on in self.plan.workloads
            for cell in self.plan.cells(on, self.store.results)
        )
        self.view.running(running, self.plan.total(self.store.results), done)

    def finish(self, cell: Cell, result: Callable[[], Record | None]) -> None:
        """Write what a cell gave."""
        try:
            record = result()
        except BrokenProcessPool:
            raise
        except Exception as error:
            self.failed[cell] = f"{type(error).__name__}: {error}"
            self.view.failed(cell, error)
            return
        if record is not None:
            self.store.add(record)
            self.view.done(cell, record)


def work_here(work: Work) -> None:
    """One cell after the other in this process."""
    while (cell := work.take([])) is not None:
        work.show([cell])
        work.finish(cell, partial(run_cell, *work.arguments(cell)))
    work.show([])


def work_in_pool(work: Work, workers: int) -> None:
    """The same in several processes of one thread each.

    Raises BrokenProcessPool when a process dies. On Ctrl-C the cells that are running are dropped.
    """
    context = multiprocessing.get_context("spawn")
    event = context.Event()
    pool = ProcessPoolExecutor(workers, context, prepare_worker, (event,))
    running: dict[Future[Record | None], Cell] = {}
    try:
        while True:
            while len(running) < workers:
                cell = work.take(list(running.values()))
                if cell is None:
                    break
                running[pool.submit(run_cell, *work.arguments(cell))] = cell
            work.show(list(running.values()))
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                work.finish(running.pop(future), future.result)
    finally:
        event.set()
        pool.shutdown(cancel_futures=True)
