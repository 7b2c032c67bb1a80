"""Backpropagation: against the analytic gradient, finite differences, and among themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gmn_opt.meta import unroll
from gmn_opt.meta.estimators import FullBackprop, TruncatedBackprop, Window
from gmn_opt.meta.windows import Constant
from tests.meta.problems import (
    SCALE,
    Descent,
    Quadratic,
    absolute,
    analytic_gradient,
    start,
    vector,
)
from tests.meta.small_tasks import MLP, SMALL, busy_rule, double_state, window


@pytest.mark.parametrize("chunk", [None, 1, 3, 4, 100])
def test_full_backprop_is_the_analytic_gradient(chunk: int | None) -> None:
    task, rule, steps = Quadratic(), Descent(), 9
    estimator = FullBackprop(chunk=chunk)
    state, _ = start(estimator, rule, task, 2)
    found = estimator.estimate(rule, absolute(window(task, state, steps)))
    exact = analytic_gradient(rule, lambda x: SCALE * x.mean(), steps, task)
    assert torch.allclose(vector(found.gradient), exact, rtol=1e-12, atol=0)
    last = replace(absolute(window(task, state, steps)), last_weight=4.0)
    weights = torch.tensor([1.0] * 8 + [4.0], dtype=torch.float64) / 12
    exact = analytic_gradient(rule, lambda x: SCALE * (weights * x).sum(), steps, task)
    found = estimator.estimate(rule, last)
    assert torch.allclose(vector(found.gradient), exact, rtol=1e-12, atol=0)


def test_full_backprop_agrees_with_finite_differences() -> None:
    task, estimator = Quadratic(noise=0.3), FullBackprop()
    rule = Descent()
    state, _ = start(estimator, rule, task, 3)
    found = vector(estimator.estimate(rule, absolute(window(task, state, 7))).gradient)

    def value(log_rate: float, drift: float) -> float:
        moved = Descent(log_rate, drift)
        return float(estimator.estimate(moved, absolute(window(task, state, 7))).meta_loss)

    eps = 1e-5
    numeric = torch.tensor(
        [
            (value(-1.5 + eps, 0.02) - value(-1.5 - eps, 0.02)) / (2 * eps),
            (value(-1.5, 0.02 + eps) - value(-1.5, 0.02 - eps)) / (2 * eps),
        ],
        dtype=torch.float64,
    )
    assert torch.allclose(found, numeric, rtol=1e-7)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_checkpointed_equals_plain(name: str, second_order: bool) -> None:
    task, rule = SMALL[name], busy_rule()
    state = double_state(task, 2)
    plain = FullBackprop(second_order, chunk=None).estimate(rule, window(task, state, 4))
    chunked = FullBackprop(second_order, chunk=3).estimate(rule, window(task, state, 4))
    assert torch.equal(plain.losses, chunked.losses)
    a, b = vector(plain.gradient), vector(chunked.gradient)
    assert float((a - b).norm()) < 1e-12 * float(a.norm())
    assert torch.equal(plain.state.theta, chunked.state.theta)


def test_checkpoints_save_memory() -> None:
    """What the backward pass needs is kept for one stretch, not for the whole run."""
    task, rule, state = SMALL["mlp"], busy_rule(), double_state(SMALL["mlp"], 2)

    def kept(chunk: int | None) -> int:
        seen: dict[int, int] = {}

        def note(t: Tensor) -> Tensor:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            generator = torch.Generator().manual_seed(1)
            unroll(rule, Window(task, state, 1, generator), chunk=1)  # records the gradients
            seen.clear()
            long = Window(task, state, 12, torch.Generator().manual_seed(1))
            out = unroll(rule, long, chunk=chunk)
        assert out.meta_loss.requires_grad
        return sum(seen.values())

    from gmn_opt.meta.gradients import flat_gradients

    flat_gradients(task).trace(state.theta, task.batch("inner_train", 2, torch.Generator()))
    assert kept(3) < 0.2 * kept(None)


@pytest.mark.parametrize("second_order", [False, True])
def test_truncated_equals_full_when_the_window_covers_the_run(second_order: bool) -> None:
    rule, state = busy_rule(), double_state(MLP, 2)
    one = TruncatedBackprop(Constant(5), second_order).estimate(rule, window(MLP, state, 5))
    two = FullBackprop(second_order, chunk=None).estimate(rule, window(MLP, state, 5))
    assert one.gradient.keys() == two.gradient.keys()
    assert all(torch.equal(g, two.gradient[n]) for n, g in one.gradient.items())
    assert torch.equal(one.meta_loss, two.meta_loss)


def test_truncated_backprop_misses_what_happened_before_the_window() -> None:
    """Its bias, measured: windows of 3 in a run of 9 see a fraction of the whole derivative."""
    task, rule = Quadratic(), Descent()
    estimator = TruncatedBackprop(Constant(3), second_order=True)
    state, _ = start(estimator, rule, task, 1)
    total = torch.zeros(2, dtype=torch.float64)
    for k in range(3):
        out = estimator.estimate(rule, absolute(window(task, state, 3)))
        total += vector(out.gradient)
        state = out.state

        def part(losses: Tensor, k: int = k) -> Tensor:
            return SCALE * losses[3 * k : 3 * k + 3].mean()

        whole = analytic_gradient(rule, part, 9, task)
        if k == 0:
            assert torch.allclose(vector(out.gradient), whole, rtol=1e-12)
    exact = analytic_gradient(rule, lambda x: SCALE * 3 * x.mean(), 9, task)
    assert float((total - exact).norm()) > 0.2 * float(exact.norm())


def test_a_window_that_is_not_finite_has_no_gradient() -> None:
    task, rule = Quadratic(), Descent()
    state, _ = start(FullBackprop(), rule, task, 1)
    state = replace(state, theta=state.theta * math.inf)
    out = TruncatedBackprop().estimate(rule, window(task, state, 2))
    assert bool(vector(out.gradient).isnan().all())
