"""From runs to figures: means, spreads, ratios, steps to a target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gmn_opt.cli.contest import DEFAULT_RATE, GMN, LEARNED, Tuning, adamw, format_rate, ratios, tune
from gmn_opt.cli.demo.models import MODELS, count_parameters
from gmn_opt.cli.demo.training import RunResult

BEST = "adamw_best"
DEFAULT = "adamw_default"


@dataclass(frozen=True)
class Spread:
    """Mean, sample deviation (None for one seed), least and greatest of some figures."""

    mean: float
    std: float | None
    low: float
    high: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of these values; infinite ones make the mean infinite."""
        finite = all(math.isfinite(value) for value in values)
        std = statistics.stdev(values) if len(values) > 1 and finite else None
        return cls(statistics.fmean(values), std, min(values), max(values), list(values))


@dataclass(frozen=True)
class Standing:
    """How a contestant did on a model, over all seeds.

    Attributes:
        role: What it is in the table: a contestant's name, `DEFAULT` or `BEST`.
        title: What people read.
        contestant: The name that its runs carry.
        loss: Final training loss.
        accuracy: Test accuracy.
        seconds: Wall time of training.
        curve: Mean over seeds of the measured training losses.
        steps_to_target: First measured step at which the mean curve is at or below the tuned
            AdamW's final loss; None when never.
    """

    role: str
    title: str
    contestant: str
    loss: Spread
    accuracy: Spread
    seconds: Spread
    curve: list[float]
    steps_to_target: int | None


@dataclass(frozen=True)
class ModelSummary:
    """Everything the demo says about one model.

    Attributes:
        name: Of the model.
        title: What people read.
        parameters: Its number of parameters.
        steps: Steps per run.
        seeds: Seeds in use.
        target: The tuned AdamW's mean final training loss.
        tuning: AdamW's grid.
        standings: In the order of the table.
        ratios: Per learned contestant and rival (`DEFAULT`, `BEST`), its final loss divided by
            the rival's, seed by seed.
        runs: All runs, the grid's included.
    """

    name: str
    title: str
    parameters: int
    steps: int
    seeds: list[int]
    target: float
    tuning: Tuning
    standings: list[Standing]
    ratios: dict[str, dict[str, Spread]]
    runs: list[RunResult]

    def standing(self, role: str) -> Standing:
        """The standing in this role."""
        return next(standing for standing in self.standings if standing.role == role)


def tuning_of(runs: Sequence[RunResult], rates: Sequence[float]) -> Tuning:
    """AdamW's grid from the runs at these rates."""
    return tune({rate: [r.final_loss for r in _of(runs, adamw(rate).name)] for rate in rates})


def summarize(model: str, runs: Sequence[RunResult], rates: Sequence[float]) -> ModelSummary:
    """All figures of one model.

    Args:
        model: Its name.
        runs: Of all contestants on this model, in any order.
        rates: The AdamW rates among them.
    """
    ordered = sorted(runs, key=lambda run: (run.contestant, run.seed))
    tuning = tuning_of(ordered, rates)
    target = tuning.losses[tuning.best]
    entries = [(c.name, c.title, c.name) for c in LEARNED]
    default, best = adamw(DEFAULT_RATE).name, adamw(tuning.best).name
    entries.append((DEFAULT, f"AdamW, default ({format_rate(DEFAULT_RATE)})", default))
    mark = " !" if tuning.at_edge or tuning.added else ""
    entries.append((BEST, f"AdamW, best rate ({format_rate(tuning.best)}){mark}", best))
    standings = [
        _standing(role, title, name, _of(ordered, name), target) for role, title, name in entries
    ]
    against = {
        learned.name: {
            DEFAULT: _ratio(_of(ordered, learned.name), _of(ordered, default)),
            BEST: _ratio(_of(ordered, learned.name), _of(ordered, best)),
        }
        for learned in LEARNED
    }
    return ModelSummary(
        name=model,
        title=MODELS[model].title,
        parameters=count_parameters(MODELS[model]),
        steps=ordered[0].probe_steps[-1],
        seeds=[run.seed for run in _of(ordered, GMN.name)],
        target=target,
        tuning=tuning,
        standings=standings,
        ratios=against,
        runs=ordered,
    )


def _of(runs: Sequence[RunResult], contestant: str) -> list[RunResult]:
    return [run for run in runs if run.contestant == contestant]


def _standing(
    role: str, title: str, contestant: str, runs: list[RunResult], target: float
) -> Standing:
    curve = [statistics.fmean(at) for at in zip(*(run.probe_losses for run in runs), strict=True)]
    steps = runs[0].probe_steps
    reached = (step for step, loss in zip(steps, curve, strict=True) if loss <= target)
    return Standing(
        role=role,
        title=title,
        contestant=contestant,
        loss=Spread.of([run.final_loss for run in runs]),
        accuracy=Spread.of([run.test_accuracy for run in runs]),
        seconds=Spread.of([run.seconds for run in runs]),
        curve=curve,
        steps_to_target=next(reached, None),
    )


def _ratio(runs: list[RunResult], rivals: list[RunResult]) -> Spread:
    return Spread.of(ratios([r.final_loss for r in runs], [r.final_loss for r in rivals]))
