"""Statistics over workloads (a workload is a task at a length), from arrays to numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LIMIT = 4.0
"""The performance profile is read up to this multiple of the best time."""


def iqm(values: Floats) -> Floats:
    """Interquartile mean along the last axis ``[..., n]``: the mean of the middle half.

    Where n is no multiple of 4, the values at the quartiles count with a part of their weight, so
    that exactly half of the weight is left. Agarwal et al. 2021 (arXiv 2108.13264) use it for
    scores; like a median it bears single failures, and it uses more of the data.

    Raises ValueError if there is nothing to average.
    """
    n = values.shape[-1]
    if n == 0:
        raise ValueError("The interquartile mean of no values is not defined.")
    places = np.arange(n)
    weight = np.clip(np.minimum(places + 1, 0.75 * n) - np.maximum(places, 0.25 * n), 0, 1)
    kept = weight > 0
    result: Floats = (np.sort(values, -1)[..., kept] * weight[kept]).sum(-1) / (n / 2)
    return result


def ratio(ours: Floats, theirs: Floats) -> Floats:
    """Elementwise; two infinite losses (both diverged) are a draw."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(np.isinf(ours) & np.isinf(theirs), 1.0, ours / theirs)
    return found


@dataclass(frozen=True)
class Interval:
    """A figure and the range in which the given share of the bootstrap's figures lies."""

    value: float
    low: float
    high: float


def iqm_of_ratios(
    ours: Floats,
    theirs: Floats,
    clusters: Sequence[str],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interquartile mean over workloads of the ratio of seed-mean losses, with its interval.

    The bootstrap draws clusters (tasks, with all their lengths) with replacement, and within every
    workload seeds with replacement, the same ones for both sides: they share initial weights and
    batches.

    Args:
        ours: losses ``[workloads, seeds]``.
        theirs: the same of the other side.
        clusters: for each workload the name of its cluster.
        resamples: how many.
        level: share of resamples inside the interval.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    workloads, seeds = ours.shape
    value = float(iqm(ratio(ours.mean(1), theirs.mean(1))))
    drawn = rng.integers(seeds, size=(resamples, workloads, seeds))
    rows = np.arange(workloads)[None, :, None]
    ratios = ratio(ours[rows, drawn].mean(-1), theirs[rows, drawn].mean(-1))
    names = sorted(set(clusters))
    members = [np.flatnonzero(np.asarray(clusters) == name) for name in names]
    figures = np.empty(resamples)
    for k in range(resamples):
        chosen = rng.integers(len(names), size=len(names))
        figures[k] = iqm(ratios[k, np.concatenate([members[c] for c in chosen])])
    # no interpolation: between a number and infinity there is none
    tail = 50 * (1 - level)
    low, high = np.percentile(figures, [tail, 100 - tail], method="nearest")
    return Interval(value, float(low), float(high))


def performance_ratios(times: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    """Per optimizer and workload its time over the best one's; infinite where it never arrived.

    ``times`` has a time to the target per workload, infinite where it was not reached.
    """
    table = np.array([list(t) for t in times.values()], dtype=np.float64)
    best = table.min(0) if len(table) else table
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(np.isinf(table), math.inf, table / best)
    return dict(zip(times, found, strict=True))


def profile(ratios: Floats, taus: Floats) -> Floats:
    """Share of workloads whose ratio is at most tau, for every tau: AlgoPerf's profile.

    Dahl et al. 2023 (arXiv 2306.07179), section 4.5, after Dolan and Moré 2002.
    """
    found: Floats = (ratios[None, :] <= taus[:, None]).mean(1)
    return found


def profile_score(ratios: Floats, limit: float = LIMIT) -> float:
    """Integral of the profile from 1 to ``limit``, over its length: 1 is the best on every one.

    The profile is a sum of steps, so the integral is exact: every workload gives what lies to the
    right of its ratio.
    """
    if not len(ratios):
        raise ValueError("The score over no workloads is not defined.")
    return float(np.clip(limit - ratios, 0, limit - 1).mean() / (limit - 1))


def first_reach(at: Sequence[float], losses: Sequence[float], target: float) -> float:
    """Where a curve first comes down to ``target``, between measurements by a straight line.

    Infinite if it never does. ``at`` are steps or seconds, one per loss.
    """
    for k, loss in enumerate(losses):
        if loss <= target:
            if k == 0 or loss == target or not math.isfinite(losses[k - 1]):
                return float(at[k])
            share = (losses[k - 1] - target) / (losses[k - 1] - loss)
            return float(at[k - 1] + share * (at[k] - at[k - 1]))
    return math.inf
