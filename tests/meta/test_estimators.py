"""Every estimator against analytic meta-gradients, finite differences, or each other."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.meta import InnerState, unroll
from gmn_opt.meta.estimators import (
    EvolutionStrategy,
    FullBackprop,
    FullES,
    GradientEstimator,
    Mixture,
    PersistentES,
    TruncatedBackprop,
    TruncatedES,
    Window,
    make_estimator,
)
from gmn_opt.meta.rules import flat_vector
from gmn_opt.meta.windows import Constant, Growing, LogUniform, Uniform, Windows
from tests.meta.problems import Descent, Quadratic, absolute, analytic_gradient, start, vector
from tests.meta.small_tasks import MLP, SMALL, SameBatch, busy_rule, double_state, like

SCALE = 500.0  # 1 / smallest loss that counts: the weight of every loss in an absolute window
PAIRS = 4000


def window(
    task: Any, state: InnerState, steps: int, memory: dict[str, Tensor] | None = None, seed: int = 5
) -> Window:
    return Window(task, state, steps, torch.Generator().manual_seed(seed), 30, memory=memory or {})


def shared_batch(task: Any) -> SameBatch:
    return like(SameBatch, task)


# ---- backpropagation


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


# ---- evolution strategies


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


# ---- mixtures


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


# ---- settings


@pytest.mark.parametrize(
    "estimator",
    [
        FullBackprop(False, 7),
        TruncatedBackprop(Growing(4, 40, 0.5), True, True, 5),
        PersistentES(0.1, LogUniform(2, 9), False),
        TruncatedES(0.2, Constant(3)),
        FullES(0.3),
        Mixture((TruncatedBackprop(), TruncatedES()), (1.0, 2.0)),
    ],
)
def test_settings_survive_json(estimator: GradientEstimator) -> None:
    import json

    assert make_estimator(json.loads(json.dumps(estimator.to_dict()))) == estimator


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "Guess"}, "Unknown estimator"),
        ("FullES", "Unknown estimator"),
        ({"name": "FullES", "colour": 1}, r"Unknown settings \['colour'\] of FullES"),
        ({"name": "FullES", "sigma": 0.0}, "must be positive, received 0.0"),
        ({"name": "TruncatedES", "windows": {"kind": "Odd"}}, "Unknown windows"),
        ({"name": "TruncatedES", "windows": {"kind": "Constant", "a": 1}}, "of Constant; known"),
    ],
)
def test_unknown_settings_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_estimator(values)


def test_window_lengths() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(windows: Windows, progress: float = 0.0, count: int = 4000) -> Tensor:
        return torch.tensor([windows.draw(generator, progress) for _ in range(count)])

    assert drawn(Constant(7), count=9).unique().tolist() == [7]
    uniform = drawn(Uniform(3, 6))
    assert uniform.unique().tolist() == [3, 4, 5, 6]
    assert (uniform == 3).double().mean() == pytest.approx(0.25, abs=0.03)
    octaves = drawn(LogUniform(1, 63))
    assert (int(octaves.min()), int(octaves.max())) == (1, 63)
    assert (octaves < 8).double().mean() == pytest.approx(0.5, abs=0.03)
    growing = Growing(10, 160, over=0.5)
    at = [float(drawn(growing, p).double().mean()) for p in (0.0, 0.25, 0.5, 1.0)]
    assert at[0] == pytest.approx(11, abs=1)
    assert at[1] == pytest.approx(40, abs=2)
    assert at[2:] == pytest.approx([152, 152], abs=2)
    for bad in ({"shortest": 0}, {"shortest": 40, "longest": 3}):
        with pytest.raises(ValueError, match="received"):
            Uniform(**bad)
    with pytest.raises(ValueError, match="share of meta-training"):
        Growing(1, 2, over=0.0)
