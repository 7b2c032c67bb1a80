"""What a finished comparison knows of those that do not depend on the learned rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments import frame
from experiments.comparison import summary
from experiments.comparison.cells import Plan
from experiments.comparison.store import CELLS, check_baselines
from experiments.comparison.summary import Table

RECORD = "result.json"


def is_record(folder: Path) -> bool:
    """Whether ``folder`` holds a comparison's record and no longer its runs."""
    return (folder / RECORD).exists() and not (folder / CELLS).exists()


def read_standings(folder: Path, protocol: Mapping[str, Any], plan: Plan) -> Table:
    """The plan's workloads with all of its contestants but the learned rule.

    Raises ValueError if the record has not all of them, or if it was run otherwise.
    """
    record = frame.read_json(folder / RECORD)
    theirs = {"format": protocol["format"], "suite": record["suite"], **record["settings"]}
    check_baselines(folder, theirs, protocol)
    wanted_ones = [c for c in plan.contestants if not c.learned]
    known = {c["name"]: c for c in record["optimizers"]}
    others = [c.name for c in wanted_ones if known.get(c.name) != json.loads(json.dumps(asdict(c)))]
    if others:
        raise ValueError(
            f"The record in {folder} has no {', '.join(others)} with these rates. Leave "
            "--baselines out to run them."
        )
    table = summary.from_json(record["workloads"])
    seeds = len(plan.seeds)
    lacking = [
        on
        for on in plan.workloads
        if on not in table or any(len(table[on][c.name].train_loss) != seeds for c in wanted_ones)
    ]
    if lacking:
        raise ValueError(
            f"The record in {folder} lacks {len(lacking)} of {len(plan.workloads)} workloads, or "
            f"has them with other seeds: {lacking[0]} is one. Leave --baselines out to run them."
        )
    return {on: {c.name: table[on][c.name] for c in wanted_ones} for on in plan.workloads}


def left(plan: Plan, known: Table) -> Plan:
    """The plan without the contestants that are ``known``."""
    names = set(next(iter(known.values()), ()))
    return replace(plan, contestants=tuple(c for c in plan.contestants if c.name not in names))


def joined(plan: Plan, table: Table, known: Table) -> Table:
    """Workloads of ``table`` with who is ``known`` on them as well, in the order of the plan."""
    names = [c.name for c in plan.contestants]
    whole = {on: {**standings, **known.get(on, {})} for on, standings in table.items()}
    return {on: {name: found[name] for name in names} for on, found in whole.items()}


def origin(folder: Path) -> str:
    """A note that the baselines are from there."""
    if not (folder / RECORD).exists():
        return f"All but the learned rule was run earlier ({folder})."
    made = frame.read_json(folder / RECORD)["environment"]
    commit = (made["commit"] or "unknown")[:7]  # none where there was no repository
    return (
        f"All but the learned rule was run earlier, at commit {commit} on {made['processor']}, "
        f"torch {made['torch']}: losses compare, times do not."
    )
