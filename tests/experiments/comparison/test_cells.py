"""Which cells there are, and in which order."""

from __future__ import annotations

from typing import Any

from experiments.comparison.cells import Cell, Plan, Workload, ordered
from gmn_opt.cli.bench.contestants import CONTESTANTS


def test_cheap_workloads_come_first_and_whole() -> None:
    costs, lengths = {"dear": 10.0, "cheap": 1.0}, {"dear": [1, 2], "cheap": [1, 50]}
    order = ordered(costs, lengths)
    assert [(w.task, w.length) for w in order] == [
        ("cheap", 1), ("dear", 1), ("dear", 2), ("cheap", 50)
    ]  # fmt: skip
    plan = Plan((Workload("a", 5), Workload("b", 5)), (CONTESTANTS["muon_cosine"],), (0, 1))
    done: dict[Cell, dict[str, Any]] = {}
    taken: list[Cell] = []
    for _ in range(3):  # the grid on the first seed
        cell = plan.next_cell(done, taken)
        assert cell is not None
        assert (cell.task, cell.seed) == ("a", 0)
        taken.append(cell)
    ahead = plan.next_cell(done, taken)  # the best is not known yet, so another worker goes on
    assert ahead is not None
    assert ahead.task == "b"
    for cell, loss in zip(taken, (3.0, None, 1.0), strict=True):
        done[cell] = {"train_loss": loss}
    assert not plan.is_complete(plan.workloads[0], done)
    best = plan.next_cell(done, [])
    assert best == Cell("a", 5, "muon_cosine", 0.05, 1)
    done[best] = {"train_loss": 1.0}
    assert plan.is_complete(plan.workloads[0], done)
    assert plan.total(done) == 8
