"""Mixtures of estimators."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from gmn_opt.meta.estimators import (
    FullBackprop,
    FullES,
    GradientEstimator,
    Mixture,
    PersistentES,
    TruncatedBackprop,
    Window,
)
from gmn_opt.meta.rules import flat_vector
from gmn_opt.meta.windows import Constant
from tests.meta.problems import start
from tests.meta.small_tasks import MLP, busy_rule, shared_batch, window


def test_a_mixture_is_the_weighted_sum() -> None:
    rule = busy_rule()
    parts = (TruncatedBackprop(Constant(2)), TruncatedBackprop(Constant(2), second_order=True))
    mixture = Mixture(parts, (3.0, 1.0))
    state, memory = start(mixture, rule, shared_batch(MLP), mixture.network_count(4))
    assert state.theta.shape[0] == 4
    task = shared_batch(MLP)
    out = mixture.estimate(rule, window(task, state, 3, memory))
    halves = state.split([2, 2])
    alone = [p.estimate(rule, window(task, s, 3)) for p, s in zip(parts, halves, strict=True)]
    expected = 0.75 * flat_vector(alone[0].gradient) + 0.25 * flat_vector(alone[1].gradient)
    assert torch.allclose(flat_vector(out.gradient), expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(out.state.theta, torch.cat([a.state.theta for a in alone]))
    assert out.losses.shape == (4, 4)
    assert float(out.meta_loss) == pytest.approx(
        0.75 * float(alone[0].meta_loss) + 0.25 * float(alone[1].meta_loss)
    )


def test_a_mixture_remembers_for_its_parts() -> None:
    rule = busy_rule()
    mixture = Mixture((TruncatedBackprop(), PersistentES()), (1.0, 0.5))
    state, memory = start(mixture, rule, MLP, mixture.network_count(5))
    assert memory["networks"].tolist() == [2, 2]
    out = mixture.estimate(rule, window(MLP, state, 2, memory))
    assert bool(out.memory["1/accumulated"].any())
    later = mixture.estimate(rule, window(MLP, out.state, 2, out.memory))
    assert later.state.step == 4


@dataclass(frozen=True)
class Noting(FullBackprop):
    """Remembers what it was given, under names that look like those of other parts."""

    def start(self, rule: Any, task: Any, count: int, generator: torch.Generator) -> Any:
        state, _ = super().start(rule, task, count, generator)
        return state, {"0/0/mine": torch.tensor(count)}

    def estimate(self, rule: Any, window: Window) -> Any:
        return replace(super().estimate(rule, window), memory=dict(window.memory))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_mixture_keeps_the_memories_of_its_parts_apart(place: int) -> None:
    """Also where a part is a mixture itself, whose own names begin with numbers."""
    rule = busy_rule()
    parts: list[GradientEstimator] = [FullBackprop(), FullBackprop(), FullBackprop()]
    parts[place] = Mixture((Noting(), FullBackprop()), (1.0, 1.0))
    mixture = Mixture(tuple(parts), (1.0, 1.0, 1.0))
    state, memory = start(mixture, rule, MLP, mixture.network_count(6))
    out = mixture.estimate(rule, window(MLP, state, 1, memory))
    assert out.memory.keys() == memory.keys()
    assert f"{place}/0/0/0/mine" in memory


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        ((), (), "one weight per estimator"),
        ((PersistentES(),), (1.0, 2.0), "1 estimators and 2 weights"),
        ((PersistentES(),), (-1.0,), "must not be negative"),
        ((PersistentES(),), (0.0,), "must not be negative"),
        ((PersistentES(), FullES()), (1.0, 1.0), "some whole runs, some windows"),
    ],
)
def test_mixtures_that_mean_nothing_are_refused(
    parts: tuple[GradientEstimator, ...], weights: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(parts, weights)
