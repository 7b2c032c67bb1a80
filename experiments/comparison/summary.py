"""From cells to figures: per workload, and over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.comparison import statistics
from experiments.comparison.cells import Plan, Results, Workload, loss_of
from experiments.comparison.statistics import Interval
from gmn_opt.cli.bench.contestants import CONTESTANTS, Contestant

TARGET = "adamw_cosine"
"""The contestant whose final loss is the target that others are timed to."""
REFERENCES = ("muon_cosine", "muon_cosine_fixed", "adamw_cosine", "adamw_default")
"""Who the others are divided by, where they take part."""
UNTRAINED = {"gmn": "gmn_initial", "gmn_total_steps": "gmn_initial_total_steps"}
"""The learned rule is also divided by what it was before it was meta-trained."""


@dataclass(frozen=True)
class Standing:
    """A contestant on a workload, at its best rate; lists hold a figure per seed.

    Attributes:
        rate: The best, or the only one.
        at_edge: Whether it lies at the edge of its grid: beyond may be better.
        train_loss: On fixed training examples, at the end; infinite where a run broke.
        test_loss: The same on test examples.
        accuracy: On test examples; None where there are no classes.
        diverged: How many seeds did.
        steps: After how many steps the training loss was measured.
        curve: Training loss then, mean over seeds.
        seconds: Processor time until then, mean over seeds.
        optimizer_ms: Of the optimizer's step, mean over seeds.
        step_ms: Of a whole training step, mean over seeds.
    """

    rate: float | None
    at_edge: bool
    train_loss: list[float]
    test_loss: list[float]
    accuracy: list[float] | None
    diverged: int
    steps: list[int]
    curve: list[float]
    seconds: list[float]
    optimizer_ms: float
    step_ms: float

    @property
    def mean(self) -> float:
        """Of the final training loss."""
        return float(np.mean(self.train_loss))

    def reach(self, target: float) -> tuple[float, float]:
        """Steps and seconds until the mean curve comes down to ``target``; infinite if never."""
        return (
            statistics.first_reach(self.steps, self.curve, target),
            statistics.first_reach(self.seconds, self.curve, target),
        )


Table = dict[Workload, dict[str, Standing]]


def table_of(plan: Plan, results: Results) -> Table:
    """Every workload on which all contestants have run with all seeds."""
    return {
        on: {c.name: standing(plan, on, c, results) for c in plan.contestants}
        for on in plan.workloads
        if plan.is_complete(on, results)
    }


def standing(plan: Plan, on: Workload, contestant: Contestant, results: Results) -> Standing:
    """One contestant on one workload."""
    rate = plan.best_rate(on, contestant, results)
    records = [results[on.cell(contestant, rate, seed)] for seed in plan.seeds]
    accuracy = [r["accuracy"] for r in records if r["accuracy"] is not None]
    curves = [r["curve"] for r in records]
    longest = max(curves, key=lambda c: len(c["steps"]))
    size = len(longest["steps"])

    def mean(name: str) -> list[float]:
        rows = [numbers(c[name]) for c in curves]
        padded = [row + [math.inf] * (size - len(row)) for row in rows]
        return [float(x) for x in np.mean(padded, 0)]

    return Standing(
        rate=rate,
        at_edge=contestant.tuned and rate in (min(contestant.rates), max(contestant.rates)),
        train_loss=[loss_of(r) for r in records],
        test_loss=[loss_of(r, "test_loss") for r in records],
        accuracy=accuracy if len(accuracy) == len(records) else None,
        diverged=sum(bool(r["diverged"]) for r in records),
        steps=longest["steps"],
        curve=mean("loss"),
        seconds=mean("seconds"),
        optimizer_ms=float(np.mean([r["optimizer_ms"] for r in records])),
        step_ms=float(np.mean([r["step_ms"] for r in records])),
    )


@dataclass(frozen=True)
class Against:
    """One contestant over another, on all workloads.

    Attributes:
        train: Interquartile mean of the ratios of seed-mean final training losses.
        test: The same of test losses.
        worst: The largest ratio of training losses.
        worst_on: Where that is.
        below: Share of workloads with a ratio of at most 1.
    """

    train: Interval
    test: Interval
    worst: float
    worst_on: str
    below: float


def against(table: Table, one: str, other: str) -> Against:
    """Ratios of ``one`` to ``other`` over the workloads of ``table``."""
    tasks = [on.task for on in table]
    pairs = [(s[one], s[other]) for s in table.values()]
    train = [np.array([pair[k].train_loss for pair in pairs]) for k in (0, 1)]
    test = [np.array([pair[k].test_loss for pair in pairs]) for k in (0, 1)]
    ratios = statistics.ratio(train[0].mean(1), train[1].mean(1))
    k = int(ratios.argmax())
    return Against(
        train=statistics.iqm_of_ratios(train[0], train[1], tasks),
        test=statistics.iqm_of_ratios(test[0], test[1], tasks),
        worst=float(ratios[k]),
        worst_on=str(list(table)[k]),
        below=float((ratios <= 1).mean()),
    )


def comparisons(table: Table) -> dict[str, dict[str, Against]]:
    """Every contestant against the references among the others."""
    if not table:
        return {}
    names = list(next(iter(table.values())))
    others = [name for name in REFERENCES if name in names]
    return {
        one: {
            other: against(table, one, other)
            for other in [*others, UNTRAINED.get(one, "")]
            if other in names and other != one
        }
        for one in names
    }


@dataclass(frozen=True)
class Profile:
    """Time to the target over the best time, per workload, and AlgoPerf's score of it."""

    unit: str
    ratios: Mapping[str, statistics.Floats]

    @property
    def scores(self) -> dict[str, float]:
        """1 where a contestant is the fastest everywhere."""
        return {name: statistics.profile_score(r) for name, r in self.ratios.items()}


def profiles(table: Table) -> list[Profile]:
    """In steps and in seconds; none without the contestant that sets the target."""
    if not table or TARGET not in next(iter(table.values())):
        return []
    made = []
    for place, unit in enumerate(("steps", "seconds")):
        times = {
            name: [s[name].reach(target_of(s))[place] for s in table.values()]
            for name in next(iter(table.values()))
        }
        made.append(Profile(unit, statistics.performance_ratios(times)))
    return made


def target_of(standings: Mapping[str, Standing]) -> float:
    """What the tuned AdamW with a cosine reaches at its end, on the examples of the curve."""
    return standings[TARGET].curve[-1]


def title(name: str) -> str:
    """What people read for a contestant's name."""
    return CONTESTANTS[name].title


def to_json(table: Table) -> list[dict[str, Any]]:
    """A row per workload; None stands for infinite."""
    rows = []
    for on, standings in table.items():
        known = TARGET in standings
        target = target_of(standings) if known else math.nan
        entries = {}
        for name, s in standings.items():
            steps, seconds = s.reach(target) if known else (math.nan, math.nan)
            entries[name] = finite(
                {
                    "rate": s.rate,
                    "rate_at_edge": s.at_edge,
                    "train_loss": s.train_loss,
                    "test_loss": s.test_loss,
                    "accuracy": s.accuracy,
                    "diverged": s.diverged,
                    "steps_to_target": steps,
                    "seconds_to_target": seconds,
                    "optimizer_ms": s.optimizer_ms,
                    "step_ms": s.step_ms,
                    "curve": {"steps": s.steps, "loss": s.curve},
                }
            )
        rows.append({"task": on.task, "steps": on.length, "contestants": entries})
    return rows


def from_json(rows: list[dict[str, Any]]) -> Table:
    """The inverse of :func:`to_json`, but that a step took as long as any other of its run."""
    table: Table = {}
    for row in rows:
        standings = table[Workload(row["task"], row["steps"])] = {}
        for name, s in row["contestants"].items():
            steps, step_ms = s["curve"]["steps"], s["step_ms"]
            standings[name] = Standing(
                rate=s["rate"],
                at_edge=s["rate_at_edge"],
                train_loss=numbers(s["train_loss"]),
                test_loss=numbers(s["test_loss"]),
                accuracy=s["accuracy"],
                diverged=s["diverged"],
                steps=steps,
                curve=numbers(s["curve"]["loss"]),
                seconds=[step * step_ms / 1000 for step in steps],
                optimizer_ms=s["optimizer_ms"],
                step_ms=step_ms,
            )
    return table


def numbers(values: list[float | None]) -> list[float]:
    """Infinite for None, as :func:`finite` writes it."""
    return [math.inf if x is None else x for x in values]


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite, and for numpy's floats Python's."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [finite(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
