"""What experiments share that compare networks on INRs: inputs, schedule, runs over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.common import command_line, environment
from gmn_opt.inr import InrSet, Params, SirenConfig, canonical
from gmn_opt.weights.atomic import write_atomically

#: Records of the runs of every competitor, one per seed.
Runs = dict[str, list[dict[str, Any]]]


class Normalizer:
    """Canonical parameters, minus mean and over standard deviation per tensor of a training set."""

    def __init__(self, train: InrSet) -> None:
        if not isinstance(train.config, SirenConfig):
            raise ValueError(f"This experiment reads SIRENs, received {train.config}.")
        self.config = train.config
        known = canonical(train.params, self.config)
        self.mean = {n: p.mean() for n, p in known.items()}
        self.std = {n: p.std().clamp_min(1e-8) for n, p in known.items()}

    def __call__(self, params: Mapping[str, Tensor]) -> Params:
        """``{name: [N, *shape]}`` as the competitors read them."""
        known = canonical(params, self.config)
        return {n: (p - self.mean[n].to(p)) / self.std[n].to(p) for n, p in known.items()}


def set_rate(optimizer: torch.optim.Optimizer, lr: float, step: int, total: int, warm: int) -> None:
    """Learning rate of a step: linear over the first ``warm``, then half a cosine to 0."""
    rate = lr * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / total))
    for group in optimizer.param_groups:
        group["lr"] = rate


def summary(runs: Runs, measure: str) -> dict[str, dict[str, float]]:
    """Mean and spread of ``measure`` over seeds, by competitor."""
    found = {}
    for name, records in runs.items():
        values = torch.tensor([r[measure] for r in records], dtype=torch.float64)
        found[name] = {
            f"{measure}_mean": float(values.mean()),
            f"{measure}_std": float(values.std()) if len(values) > 1 else 0.0,
            "seconds_mean": fmean(r["seconds"] for r in records),
            "parameters": records[0]["parameters"],
        }
    return found


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a JSON file."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def runs_before(path: Path, settings: Mapping[str, Any], resume: bool) -> Runs:
    """The runs in a record that is gone on with; none without ``resume`` or a record.

    Raises ValueError when the record was made with other settings.
    """
    if not resume or not path.exists():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    if {k: before.get(k) for k in settings} != dict(settings):
        raise ValueError(f"{path} was made with other settings; choose another --out.")
    found: Runs = before["runs"]
    return found


def write_runs(path: Path, settings: Mapping[str, Any], runs: Runs, measure: str) -> None:
    """Write the record of all runs so far, whole or not at all."""
    result = {
        "command": command_line(),
        **settings,
        "summary": summary(runs, measure),
        "runs": runs,
        "environment": environment(),
    }
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
