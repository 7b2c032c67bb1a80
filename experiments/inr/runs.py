"""What experiments share that compare networks on INRs: inputs, training, runs over seeds."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from experiments import frame
from gmn_opt.inr import InrSet, Params, SirenConfig, canonical

#: Records of the runs of every competitor, one per seed.
Runs = dict[str, list[dict[str, Any]]]


class Budget(Protocol):
    """What every competitor gets."""

    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102


class Normalizer:
    """Canonical parameters, minus mean and over standard deviation per tensor of a training set.

    Args:
        train: The training set, of SIRENs.
        power: Of the fan-in by which weights are multiplied first, as a multiple of that in the
            training set, and of the width by which slopes of neurons are. At 1 a network says the
            same when every neuron is there twice and its outgoing weights are halved.

    Raises ValueError for INRs that are no SIRENs.
    """

    def __init__(self, train: InrSet, power: float = 0.0) -> None:
        if not isinstance(train.config, SirenConfig):
            raise ValueError(f"This experiment reads SIRENs, received {train.config}.")
        self.config, self.power = train.config, power
        self.widths = train.config.widths
        known = canonical(train.params, self.config)
        self.mean = {n: p.mean() for n, p in known.items()}
        self.std = {n: p.std().clamp_min(1e-8) for n, p in known.items()}

    def at(self, config: SirenConfig) -> Normalizer:
        """The same for networks of other widths."""
        other = copy.copy(self)
        other.config = config
        return other

    @property
    def gains(self) -> list[float]:
        """What slopes of each layer's neurons are multiplied by."""
        pairs = zip(self.config.widths, self.widths, strict=True)
        return [*((now / then) ** self.power for now, then in pairs), 1.0]

    def __call__(self, params: Mapping[str, Tensor]) -> Params:
        """``{name: [N, *shape]}`` as the competitors read them."""
        known = canonical(params, self.config)
        return {
            n: (p * self._factor(n) - self.mean[n].to(p)) / self.std[n].to(p)
            for n, p in known.items()
        }

    def back(self, params: Mapping[str, Tensor]) -> Params:
        """Networks of the same functions as those that were normalized to ``params``."""
        return {
            n: (p * self.std[n].to(p) + self.mean[n].to(p)) / self._factor(n)
            for n, p in params.items()
        }

    def _factor(self, name: str) -> float:
        """Of a weight, the gain of the layer that it reads."""
        layer, _, leaf = name.removeprefix("layers.").partition(".")
        return self.gains[int(layer) - 1] if leaf == "weight" and int(layer) else 1.0


def epochs(
    model: nn.Module,
    count: int,
    budget: Budget,
    seed: int,
    device: torch.device,
    loss_of: Callable[[Tensor, torch.Generator], Tensor],
    warm: int,
    after: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, float]]:
    """Train by AdamW, ``warm`` steps of warm-up and half a cosine; a point after every epoch.

    Args:
        model: Is trained.
        count: Of the training networks.
        budget: Epochs and settings.
        seed: Of the order of the networks, and of what ``loss_of`` draws.
        device: Where the model is.
        loss_of: Of the networks at these positions.
        warm: Steps.
        after: What belongs to an epoch, and to its time.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=budget.lr, weight_decay=budget.weight_decay
    )
    per_epoch = max(1, count // budget.batch)
    total, seconds = budget.epochs * per_epoch, 0.0

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / total))

    schedule = LambdaLR(optimizer, rate)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(budget.epochs):
        started, losses = time.perf_counter(), []
        order = torch.randperm(count, generator=generator).to(device)
        for chosen in order.split(budget.batch)[:per_epoch]:
            loss = loss_of(chosen, generator)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        after()
        seconds += time.perf_counter() - started
        yield {"epoch": epoch + 1, "seconds": round(seconds, 2), "loss": fmean(losses)}


def compare(
    names: Sequence[str],
    seeds: range,
    run: Callable[[str, int], dict[str, Any]],
    path: Path,
    settings: Mapping[str, Any],
    runs: Runs,
    measure: str,
    console: Console,
) -> None:
    """The runs that ``runs`` lacks, by seed and name; the record is written after each."""
    for name, seed in lacking(names, seeds, runs):
        record = run(name, seed)
        runs.setdefault(name, []).append({"seed": seed, **record})
        console.print(
            f"{name}, seed {seed}: {measure} {record[measure]:.4g} in {record['seconds']:.0f} s"
        )
        write_runs(path, settings, runs, measure)


def lacking(names: Sequence[str], seeds: range, runs: Runs) -> Iterator[tuple[str, int]]:
    """Names and seeds that ``runs`` has no run of, one seed after the other."""
    for seed in seeds:
        for name in names:
            if seed not in {r["seed"] for r in runs.get(name, [])}:
                yield name, seed


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


def summary_table(title: str, runs: Runs, measure: str, highest: bool = False) -> Table:
    """A line per competitor, best first."""
    found = summary(runs, measure)
    best = sorted(found.items(), key=lambda f: f[1][f"{measure}_mean"], reverse=highest)
    rows = [
        (name, f"{f[f'{measure}_mean']:.3f}", f"{f[f'{measure}_std']:.3f}",
         f"{f['parameters']:,}", f"{f['seconds_mean']:.0f}")
        for name, f in best
    ]  # fmt: skip
    return frame.table(title, ("", measure, "+-", "parameters", "seconds"), rows)


def runs_before(path: Path, settings: Mapping[str, Any], resume: bool) -> Runs:
    """The runs in a record that is gone on with; none without ``resume`` or a record.

    Raises ValueError when the record was made with other settings.
    """
    if not resume or not path.exists():
        return {}
    before = frame.read_json(path)
    frame.check_record(path.parent, before, settings)
    found: Runs = before["runs"]
    return found


def write_runs(path: Path, settings: Mapping[str, Any], runs: Runs, measure: str) -> None:
    """Write the record of all runs so far, whole or not at all."""
    facts = {**settings, "summary": summary(runs, measure), "runs": runs}
    frame.write_record(path, facts)
