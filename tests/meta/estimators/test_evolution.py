"""Evolution strategies: slopes, what they credit, and that they are unbiased."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.meta import InnerState, unroll
from gmn_opt.meta.estimators import (
    EvolutionStrategy,
    FullBackprop,
    FullES,
    PersistentES,
    TruncatedES,
    Window,
)
from gmn_opt.meta.rules import flat_vector
from tests.meta.problems import (
    SCALE,
    Descent,
    Quadratic,
    absolute,
    analytic_gradient,
    start,
    vector,
)
from tests.meta.small_tasks import MLP, SMALL, busy_rule, double_state, shared_batch, window

PAIRS = 4000


def directional(gradient: Tensor, directions: Tensor, sigma: float) -> Tensor:
    """What slopes must be for infinitely small perturbations: ``[pairs]``."""
    return directions @ gradient / sigma**2


@pytest.mark.parametrize("kind", [TruncatedES, FullES])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_every_slope_is_a_directional_derivative(kind: type[EvolutionStrategy], name: str) -> None:
    """Perturbed GMN rules, run as one batch, against the exact gradient of each pair's loss."""
    task, rule, sigma = shared_batch(SMALL[name]), busy_rule(), 1e-6
    one = double_state(task, 1)
    state = InnerState.join([one] * 3)
    estimator = kind(sigma=sigma)
    found = estimator.samples(rule, window(task, state, 3))
    exact = FullBackprop(chunk=None).estimate(rule, window(task, one, 3))
    expected = directional(flat_vector(exact.gradient), found.directions, sigma)
    assert torch.allclose(
        found.slopes, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )
    assert float(found.meta_loss) == pytest.approx(float(exact.meta_loss), rel=1e-6)
    # the estimate is the mean of slope times direction
    mean = (found.slopes[:, None] * found.directions).mean(0)
    again = estimator.estimate(rule, window(task, state, 3))
    assert torch.allclose(flat_vector(again.gradient), mean, rtol=1e-10, atol=1e-12)


def test_pes_credits_the_perturbations_of_all_windows() -> None:
    """Slopes of the second window against derivatives by the rules of both windows."""
    task, rule, sigma = shared_batch(MLP), busy_rule(), 1e-6
    estimator = PersistentES(sigma=sigma)
    state, memory = start(estimator, rule, task, 6)
    begin = state.split([1] * 6)[0]
    state = InnerState.join([begin] * 6)
    first = estimator.samples(rule, window(task, state, 2, memory, seed=1))
    second = estimator.samples(rule, window(task, first.state, 3, first.memory, seed=2))

    early, late = copy.deepcopy(rule), copy.deepcopy(rule)
    middle = unroll(early, Window(task, begin, 2, torch.Generator(), 30), second_order=True)
    end = unroll(late, Window(task, middle.state, 3, torch.Generator(), 30), second_order=True)
    grads = torch.autograd.grad(
        end.meta_loss, [*early.parameters(), *late.parameters()], allow_unused=True
    )
    flat = [
        torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                   for p, g in zip(rule.parameters(), part, strict=True)])
        for part in (grads[: len(grads) // 2], grads[len(grads) // 2 :])
    ]  # fmt: skip
    eps_1, eps_2 = first.directions, second.directions - first.directions
    expected = directional(flat[0], eps_1, sigma) + directional(flat[1], eps_2, sigma)
    assert float(flat[0].norm()) > 0.01 * float(flat[1].norm()) > 0
    tolerance = 1e-3 * float(expected.abs().max())
    assert torch.allclose(second.slopes, expected, rtol=1e-3, atol=tolerance)


def windows_of_a_run(
    estimator: EvolutionStrategy, rule: Any, task: Any, horizon: int, length: int, pairs: int
) -> Iterator[Tensor]:
    """Samples ``[pairs, M]`` of the gradient of every window of a run."""
    count = estimator.network_count(2 * pairs)
    state, memory = start(estimator, rule, task, count)
    generator = torch.Generator().manual_seed(9)
    for _ in range(horizon // length):
        one = absolute(Window(task, state, length, generator, memory=memory))
        found = estimator.samples(rule, one)
        assert len(found.slopes) == pairs
        state, memory = found.state, found.memory
        yield found.slopes[:, None] * found.directions


def standard_errors(samples: Tensor, expected: Tensor) -> float:
    """Distance of the mean of ``samples`` [n, M] from ``expected``, in standard errors."""
    error = samples.std(0) / len(samples) ** 0.5
    return float(((samples.mean(0) - expected) / error).abs().max())


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_pes_is_unbiased_over_a_run_of_windows(noise: float) -> None:
    """Mean of the estimates within its confidence interval; the truncated estimators are not."""
    task, rule, horizon, length = Quadratic(noise), Descent(), 12, 3
    exact = analytic_gradient(
        rule, lambda x: SCALE * (horizon // length) * x.mean(), horizon, Quadratic()
    )  # the noise adds nothing to the derivative by the drift, and little to that by the rate
    if noise:
        state, _ = start(FullBackprop(), rule, task, 20_000)
        whole = FullBackprop(chunk=None).estimate(rule, absolute(window(task, state, horizon)))
        exact = (horizon // length) * vector(whole.gradient)
    args = (rule, task, horizon, length, PAIRS)
    pes = torch.stack(list(windows_of_a_run(PersistentES(sigma=0.01), *args))).sum(0)
    assert standard_errors(pes, exact) < 4
    # the interval is narrow enough to tell: a tenth of the gradient
    assert float((pes.std(0) / PAIRS**0.5).norm()) < 0.1 * float(exact.norm())
    truncated = torch.stack(list(windows_of_a_run(TruncatedES(sigma=0.01), *args))).sum(0)
    assert standard_errors(truncated, exact) > 10
    # the price of no bias: more variance
    assert float(pes.var(0).sum()) > 1.5 * float(truncated.var(0).sum())


def test_full_es_is_unbiased() -> None:
    task, rule, horizon = Quadratic(), Descent(), 12
    exact = analytic_gradient(rule, lambda x: SCALE * x.mean(), horizon, task)
    (found,) = windows_of_a_run(FullES(sigma=0.01), rule, task, horizon, horizon, PAIRS)
    assert standard_errors(found, exact) < 4
    assert float((found.std(0) / PAIRS**0.5).norm()) < 0.1 * float(exact.norm())


def test_truncated_es_is_unbiased_for_its_window() -> None:
    task, rule = Quadratic(), Descent()
    state, _ = start(TruncatedES(), rule, task, PAIRS)
    state = replace(state, theta=state.theta * 0.5, step=6)
    found = TruncatedES(sigma=0.01).samples(rule, absolute(window(task, state, 4)))
    exact = FullBackprop().estimate(rule, absolute(window(task, state, 4)))
    samples = found.slopes[:, None] * found.directions
    assert standard_errors(samples, vector(exact.gradient)) < 4
    assert found.state.theta.shape == state.theta.shape
    assert found.state.step == 10


def test_wide_perturbations_smooth_the_loss() -> None:
    """The bias of a large sigma, measured: the gradient of the smoothed loss, not of the loss."""
    task, rule, steps, sigma = Quadratic(), Descent(), 12, 0.3
    exact = analytic_gradient(rule, lambda x: SCALE * x.mean(), steps, task)
    (found,) = windows_of_a_run(FullES(sigma=sigma), rule, task, steps, steps, PAIRS)
    nodes = torch.linspace(-6, 6, 241, dtype=torch.float64)  # quadrature over both perturbations
    density = torch.exp(-0.5 * nodes.square())
    density = density / density.sum()
    smoothed = torch.zeros(2, dtype=torch.float64)
    for z1, p1 in zip(nodes[::10].tolist(), (10 * density[::10]).tolist(), strict=True):
        for z2, p2 in zip(nodes[::10].tolist(), (10 * density[::10]).tolist(), strict=True):
            moved = Descent(-1.5 + sigma * z1, 0.02 + sigma * z2)
            smoothed += p1 * p2 * analytic_gradient(moved, lambda x: SCALE * x.mean(), steps, task)
    assert standard_errors(found, smoothed) < 4
    assert standard_errors(found, exact) > 4


def test_antithetic_pairs_share_networks_and_data() -> None:
    """With perturbations of nothing to speak of, both signs do the same."""
    rule = busy_rule()
    for estimator in (PersistentES(sigma=1e-13), TruncatedES(sigma=1e-13), FullES(sigma=1e-13)):
        count = estimator.network_count(6)
        state, memory = start(estimator, rule, MLP, count)
        found = estimator.samples(rule, window(MLP, state, 2, memory))
        positive, negative = found.losses.split(3, 1)
        assert torch.allclose(positive, negative, rtol=1e-9)
        assert not torch.allclose(positive[:, 0], positive[:, 1], rtol=1e-3)


def test_pes_without_its_memory_is_refused() -> None:
    rule = busy_rule()
    state, _ = start(PersistentES(), rule, MLP, 2)
    with pytest.raises(ValueError, match=r"accumulated over the run, received .* \[\]"):
        PersistentES().estimate(rule, window(MLP, state, 2))
    with pytest.raises(ValueError, match="even number of networks, received 3"):
        PersistentES().start(rule, MLP, 3, torch.Generator())
