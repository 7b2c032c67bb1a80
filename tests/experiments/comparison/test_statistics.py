"""Statistics on numbers that are worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.comparison.statistics import (
    first_reach,
    iqm,
    iqm_of_ratios,
    performance_ratios,
    profile,
    profile_score,
    ratio,
)

INF = math.inf


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),  # 3, 4, 5, 6
        ([1, 2, 3, 100], 2.5),
        ([0, 1, 2, 3, 100], 2.0),  # 0.75 of 1, all of 2, 0.75 of 3, over 2.5
        ([7], 7.0),
        ([1, 3], 2.0),
        ([1, 1, 1, INF], 1.0),
        ([1, 2, INF, INF], INF),
    ],
)
def test_interquartile_mean(values: list[float], expected: float) -> None:
    assert float(iqm(np.array(values, dtype=float))) == pytest.approx(expected)


def test_interquartile_mean_over_the_last_axis() -> None:
    rows = np.array([[1.0, 2.0, 3.0, 100.0], [5.0, 5.0, 5.0, 5.0]])
    assert iqm(rows).tolist() == [2.5, 5.0]
    with pytest.raises(ValueError, match="no values"):
        iqm(np.array([]))


def test_two_that_diverged_are_level() -> None:
    found = ratio(np.array([1.0, INF, INF, 2.0]), np.array([2.0, INF, 4.0, INF]))
    assert found.tolist() == [0.5, 1.0, INF, 0.0]


def test_ratios_are_those_of_means_over_seeds() -> None:
    ours, theirs = np.array([[1.0, 3.0]]), np.array([[8.0, 2.0]])
    assert iqm_of_ratios(ours, theirs, ["a"]).value == pytest.approx(2 / 5)


def test_the_bootstrap_draws_tasks_with_all_their_lengths() -> None:
    ours = np.array([[0.5], [0.5], [1.0], [1.0]])
    theirs = np.ones((4, 1))
    # drawn are a and a, a and b, or b and b
    found = iqm_of_ratios(ours, theirs, ["a", "a", "b", "b"])
    assert (found.value, found.low, found.high) == (0.75, 0.5, 1.0)
    same = iqm_of_ratios(ours, theirs, ["a"] * 4)
    assert (same.low, same.high) == (0.75, 0.75)


def test_the_bootstrap_draws_the_same_seeds_for_both_sides() -> None:
    losses = np.array([[1.0, 2.0, 4.0]])
    paired = iqm_of_ratios(0.5 * losses, losses, ["a"])
    assert (paired.low, paired.high) == (0.5, 0.5)
    free = iqm_of_ratios(0.5 * losses[:, ::-1], losses, ["a"])
    assert free.low < 0.3 < free.value == 0.5 < 0.8 < free.high


def test_an_interval_that_contains_a_run_that_diverged() -> None:
    ours, theirs = np.array([[1.0, INF]]), np.ones((1, 2))
    found = iqm_of_ratios(ours, theirs, ["a"])
    assert (found.value, found.low, found.high) == (INF, 1.0, INF)


def test_performance_profile_and_score() -> None:
    times = {"a": [10.0, 20.0, INF, 30.0], "b": [20.0, 10.0, INF, INF]}
    found = performance_ratios(times)
    assert {n: r.tolist() for n, r in found.items()} == {"a": [1, 2, INF, 1], "b": [2, 1, INF, INF]}
    taus = np.array([1.0, 1.99, 2.0, 4.0])
    assert profile(found["a"], taus).tolist() == [0.5, 0.5, 0.75, 0.75]
    assert profile(found["b"], taus).tolist() == [0.25, 0.25, 0.5, 0.5]
    # a: three wide for the two where it is best, two for the one where it takes twice as long
    assert profile_score(found["a"]) == pytest.approx((3 + 3 + 2 + 0) / (4 * 3))
    assert profile_score(found["b"]) == pytest.approx((3 + 2 + 0 + 0) / (4 * 3))


def test_the_score_is_the_integral_of_the_profile() -> None:
    ratios = np.array([1.0, 1.3, 2.7, 3.9, 6.0, INF])
    taus = np.linspace(1, 4, 30001)
    integral = float(np.trapezoid(profile(ratios, taus), taus)) / 3
    assert profile_score(ratios) == pytest.approx(integral, abs=1e-4)
    assert profile_score(np.ones(5)) == 1
    assert profile_score(np.full(5, INF)) == 0
    with pytest.raises(ValueError, match="no workloads"):
        profile_score(np.array([]))


@pytest.mark.parametrize(
    ("target", "expected"),
    [(5.0, 0.0), (4.0, 0.0), (3.0, 5.0), (2.0, 10.0), (1.0, 25.0), (0.5, INF)],
)
def test_when_a_curve_first_comes_down_to_a_target(target: float, expected: float) -> None:
    at, losses = [0, 10, 20, 30], [4.0, 2.0, 1.5, 0.5000001]
    if target == 1.0:
        losses[-1] = 0.5
    if target == 0.5:
        losses[-1] = 0.6
    assert first_reach(at, losses, target) == pytest.approx(expected)


def test_a_curve_that_came_back_from_infinity() -> None:
    assert first_reach([0, 10, 20], [4.0, INF, 1.0], 2.0) == 20
