"""The update rule: equivariant, batched, and its hand-made base before any meta-training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import BlockedGraph, blocked
from gmn_opt.optim import LearnedRule, RuleConfig, StepInputs
from gmn_opt.optim.base import base_constants
from gmn_opt.optim.directions import (
    CHANNELS,
    NOISE_RMS,
    base_rms,
    channels,
    statistics,
    update_moments,
)
from gmn_opt.optim.rule import MAX_LOG_SIZE, MAX_WEIGHT, Thought
from gmn_opt.weights.headers import MIXTURES, MixtureName
from tests.cases import Case
from tests.optim.named import NamedState, named_step
from tests.traced import PLAIN, largest_difference, permute, random_tensors, traced

cases = pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.name)


def busy_rule(
    seed: int = 0,
    neurons: bool = True,
    mixture: MixtureName = "all",
    messages: bool = True,
) -> LearnedRule:
    """A small rule in float64 whose heads are far from zero."""
    torch.manual_seed(seed)
    config = RuleConfig(8, 4, 2, every=10, neurons=neurons, messages=messages, mixture=mixture)
    rule = LearnedRule(config).double()
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return rule.requires_grad_(False)


def permute_state(graph: ParameterGraph, state: NamedState) -> NamedState:
    """Moments permuted like the parameters, moment by moment."""
    return NamedState(state.step, {n: permute(graph, m) for n, m in state.moments.items()})


def start(graph: ParameterGraph) -> tuple[dict[str, Tensor], NamedState]:
    """Parameters and a state that has seen some gradients."""
    params = random_tensors(graph, seed=1)
    moments: dict[str, dict[str, Tensor]] = {"fast": {}, "slow": {}, "second": {}}
    for i, (name, p) in enumerate(params.items()):
        torch.manual_seed(i)
        fast, slow = torch.randn(2, *p.shape, dtype=torch.float64)
        second = fast.square() + slow.square() + 0.1
        for key, m in (("fast", fast), ("slow", slow), ("second", second)):
            moments[key][name] = m
    return params, NamedState(5, moments)


def seen_once(layout: BlockedGraph, grad: Tensor) -> Tensor:
    """Moments ``[..., 3, P]`` after their first gradient."""
    zeros = torch.zeros(*grad.shape[:-1], 3, grad.shape[-1], dtype=grad.dtype)
    return update_moments(layout, zeros, grad)


@cases
@pytest.mark.parametrize("horizon", [None, 20])
def test_two_steps_are_equivariant(case: Case, horizon: int | None) -> None:
    """Permute, step, and step, permute agree; gradients and state are permuted, not recomputed.

    The second step reuses the thought of the first one, whose gains belong to neurons.
    """
    graph = traced(case.name, contracted=True)[1]
    rule = busy_rule()
    params, state = start(graph)
    moved_params, moved_state = permute(graph, params), permute_state(graph, state)
    for seed in (2, 3):
        grads = random_tensors(graph, seed=seed)
        delta, state = named_step(rule, graph, params, grads, state, horizon)
        moved, moved_state = named_step(
            rule, graph, moved_params, permute(graph, grads), moved_state, horizon
        )
        assert largest_difference(permute(graph, delta), moved) < 1e-10
        expected = permute_state(graph, state).moments
        for name, moment in expected.items():
            assert largest_difference(moment, moved_state.moments[name]) < 1e-10
        assert any(float(d.abs().max()) > 1e-6 for d in delta.values())


@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm", "attention"])
def test_batched_equals_one_by_one(name: str) -> None:
    graph = traced(name, contracted=True)[1]
    layout = blocked(graph)
    rule = busy_rule()
    theta, grad = (layout.flatten(random_tensors(graph, 3, seed=s)) for s in (1, 2))
    moments = seen_once(layout, grad)
    first = rule.flat_update(StepInputs(graph, theta, grad, moments, 10, 30))
    assert first.thought is not None
    known = StepInputs(graph, theta, grad, first.moments, 11, 30, False, first.thought)
    second = rule.flat_update(known)
    for i in range(3):
        own = rule.flat_update(StepInputs(graph, theta[i], grad[i], moments[i], 10, 30))
        assert own.thought is not None
        assert torch.allclose(own.delta, first.delta[i], rtol=1e-11, atol=1e-14)
        assert torch.allclose(own.moments, first.moments[i], rtol=1e-12)
        assert torch.allclose(own.thought, first.thought[i], rtol=1e-11, atol=1e-14)
        given = StepInputs(graph, theta[i], grad[i], own.moments, 11, 30, False, own.thought)
        assert torch.allclose(
            rule.flat_update(given).delta, second.delta[i], rtol=1e-11, atol=1e-14
        )


def test_the_metanet_runs_at_the_first_steps_and_then_every_so_many() -> None:
    rule = LearnedRule(RuleConfig(every=4))
    assert [step for step in range(14) if rule.thinks(step)] == [0, 1, 2, 4, 8, 12]


def test_a_thought_serves_until_the_next_one() -> None:
    graph = traced("mlp", contracted=True)[1]
    layout = blocked(graph)
    rule = busy_rule()
    theta, grad = (layout.flatten(random_tensors(graph, seed=s)) for s in (1, 2))
    moments = seen_once(layout, grad)
    made = rule.flat_update(StepInputs(graph, theta, grad, moments, 10)).thought
    assert made is not None
    assert made.shape == (rule.thought_size(graph),)
    other = Thought.unflatten(2 * made, layout).flatten()
    kept = rule.flat_update(StepInputs(graph, theta, grad, moments, 11, thought=other)).thought
    assert kept is not None
    assert torch.equal(kept, other)
    fresh = rule.flat_update(StepInputs(graph, theta, grad, moments, 20, thought=other)).thought
    assert fresh is not None
    assert not torch.equal(fresh, other)


def test_recording_gradients_changes_nothing() -> None:
    graph = traced("cnn", contracted=True)[1]
    params, state = start(graph)
    grads = random_tensors(graph, seed=2)
    rule = busy_rule()
    plain, _ = named_step(rule, graph, params, grads, state)
    rule.requires_grad_(True)
    recorded, _ = named_step(rule, graph, params, grads, state)
    assert largest_difference(plain, recorded) < 1e-13


@pytest.mark.parametrize("neurons", [False, True])
def test_the_first_step_is_the_base_whatever_was_learned(neurons: bool) -> None:
    """Learning enters over some steps: at the first one nothing of the run is known."""
    graph = traced("cnn", contracted=True)[1]
    layout = blocked(graph)
    theta, grad = (layout.flatten(random_tensors(graph, seed=s)) for s in (1, 2))
    zeros = torch.zeros(3, theta.shape[-1], dtype=theta.dtype)
    given = StepInputs(graph, theta, grad, zeros, 0, 50)
    base = LearnedRule().double().requires_grad_(False)
    one = base.flat_update(given).delta
    assert torch.allclose(busy_rule(neurons=neurons).flat_update(given).delta, one, atol=1e-15)


@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm", "attention"])
def test_what_is_learned_is_bounded(name: str) -> None:
    """Heads beyond all bounds change the length of a step by a bounded factor."""
    graph = traced(name, contracted=True)[1]
    layout = blocked(graph)
    rule = busy_rule()
    rule.block_head.weight.mul_(1e6)
    params, state = start(graph)
    theta, grad = layout.flatten(params), layout.flatten(random_tensors(graph, seed=2))
    flat = torch.stack([layout.flatten(state.moments[m]) for m in rule.moment_names])
    base = LearnedRule().double().requires_grad_(False)
    given = StepInputs(graph, theta, grad, flat, 50)
    wild, tame = (r.flat_update(given).delta.split(layout.edge_counts) for r in (rule, base))
    constants = base_constants(layout, theta)
    for i, (a, b) in enumerate(zip(wild, tame, strict=True)):
        share = 0.15 + constants.decays[i]
        decay = float(share * constants.sizes[i] * theta.split(layout.edge_counts)[i].norm())
        # size e^1.4, gains e^2, four directions of weight 1.5 beside the base's own
        assert float(a.norm()) < math.exp(3.4) * (7 * float(b.norm()) + decay)


@pytest.mark.parametrize("name", ["cnn", "cnn_batch_norm", "resnet", "mlp"])
def test_kernels_keep_the_size_of_their_step(name: str) -> None:
    graph = traced(name, contracted=True)[1]
    layout = blocked(graph)
    params, state = start(graph)
    rule = busy_rule(neurons=False, mixture="none")
    theta, grad = layout.flatten(params), layout.flatten(random_tensors(graph, seed=2))
    flat = torch.stack([layout.flatten(state.moments[m]) for m in rule.moment_names])
    made = rule.flat_update(StepInputs(graph, theta, grad, flat, 50)).thought
    assert made is not None
    base = base_constants(layout, theta)
    rms = torch.stack([w.square().mean().sqrt() for w in theta.split(layout.edge_counts)])
    sizes = Thought.unflatten(made, layout).coefficients.abs().amax(-1)
    same = torch.isclose(sizes, base.trusted(rms), rtol=1e-9)
    assert torch.equal(same, base.is_kernel)
    assert base.is_kernel.any() == (name != "mlp")


@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm", "attention_packed"])
@pytest.mark.parametrize("mixture", MIXTURES)
def test_directions_are_mixed_where_they_may_be(name: str, mixture: MixtureName) -> None:
    graph = traced(name, contracted=True)[1]
    layout = blocked(graph)
    params, state = start(graph)
    rule = busy_rule(neurons=False, mixture=mixture)
    theta, grad = layout.flatten(params), layout.flatten(random_tensors(graph, seed=2))
    flat = torch.stack([layout.flatten(state.moments[m]) for m in rule.moment_names])
    made = rule.flat_update(StepInputs(graph, theta, grad, flat, 50)).thought
    assert made is not None
    used = Thought.unflatten(made, layout).coefficients != 0
    base = base_constants(layout, theta)
    orthogonal = base.is_orthogonal
    assert orthogonal.any()
    assert not orthogonal.all()
    weight, gradient, fast, slow, along = (CHANNELS.index(n) for n in
        ("weight", "gradient", "fast", "slow", "orthogonal"))  # fmt: skip
    assert torch.equal(used[:, weight], base.decays > 0)
    assert (used[:, weight] | ~orthogonal).all()
    assert torch.equal(used[:, along], orthogonal)
    assert torch.equal(used[:, fast], ~orthogonal)
    for channel in (gradient, slow):
        mixed = {"none": torch.zeros_like(orthogonal), "adam": ~orthogonal}
        assert torch.equal(used[:, channel], mixed.get(mixture, torch.ones_like(orthogonal)))


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt_tied"])
def test_without_messages_only_statistics_of_blocks_are_read(name: str) -> None:
    """Any order of a block's numbers gives the same thought; with messages it does not."""
    graph = traced(name, contracted=True)[1]
    layout = blocked(graph)
    rules = [busy_rule(neurons=False, mixture="none", messages=m) for m in (False, True)]
    params, state = start(graph)
    theta, grad = layout.flatten(params), layout.flatten(random_tensors(graph, seed=2))
    flat = torch.stack([layout.flatten(state.moments[m]) for m in rules[0].moment_names])
    inputs = StepInputs(graph, theta, grad, flat, 50)
    values = channels(layout, theta, grad, flat, 51)
    torch.manual_seed(3)
    parts = [p[..., torch.randperm(p.shape[-1])] for p in values.split(layout.edge_counts, -1)]
    shuffled = torch.cat(parts, -1)
    differences = [
        float((r.think(inputs, values).flatten() - r.think(inputs, shuffled).flatten()).abs().max())
        for r in rules
    ]
    assert differences[0] < 1e-12
    assert differences[1] > 1e-6


def test_settings_that_make_no_rule_are_refused() -> None:
    with pytest.raises(ValueError, match="messages=True"):
        RuleConfig(neurons=True, messages=False)
    with pytest.raises(ValueError, match="received 'some'"):
        RuleConfig(mixture="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("quiet", [1e-1, 1e-4, 0.0])
@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm"])
def test_a_quiet_moment_gives_no_direction_more_weight_than_noise(name: str, quiet: float) -> None:
    """A batch that is fitted already says nothing of the next one."""
    graph = traced(name, contracted=True)[1]
    layout = blocked(graph)
    rule = busy_rule()
    rule.block_head.weight.mul_(1e6)
    theta, noise = (layout.flatten(random_tensors(graph, seed=s)) for s in (1, 2))
    given = quiet * noise
    moments = torch.stack([given, given, torch.ones_like(noise)])
    inputs = StepInputs(graph, theta, given, moments, 200)
    flat = rule.flat_update(inputs).thought
    assert flat is not None
    thought = Thought.unflatten(flat, layout)
    after = update_moments(layout, moments, given)
    seen = statistics(layout, channels(layout, theta, given, after, 201))
    base = base_constants(layout, theta)
    size = base.sizes * math.exp(MAX_LOG_SIZE) * base_rms(base.is_orthogonal, seen.rms)
    for channel in ("gradient", "slow"):
        i = CHANNELS.index(channel)
        bound = MAX_WEIGHT * size / NOISE_RMS[i]
        assert (thought.coefficients[:, i].abs() <= bound * (1 + 1e-9)).all()


def test_update_does_not_depend_on_the_scale_of_the_loss() -> None:
    graph = traced("mlp", contracted=True)[1]
    rule = busy_rule()
    params = random_tensors(graph, seed=1)
    one_state = scaled_state = NamedState.initial(rule, params)
    for seed in (2, 3, 4):
        grads = random_tensors(graph, seed=seed)
        one, one_state = named_step(rule, graph, params, grads, one_state)
        more = {n: 1e4 * g for n, g in grads.items()}
        scaled, scaled_state = named_step(rule, graph, params, more, scaled_state)
        assert largest_difference(one, scaled) < 1e-6


def test_zero_gradients_are_harmless() -> None:
    graph = traced("mlp", contracted=True)[1]
    rule = busy_rule().requires_grad_(True)
    layout = blocked(graph)
    theta = layout.flatten(random_tensors(graph))
    grad = torch.zeros_like(theta).requires_grad_()
    moments = torch.zeros(3, len(theta)).double()
    delta = rule.flat_update(StepInputs(graph, theta, grad, moments, 0)).delta
    (slope,) = torch.autograd.grad(delta.sum(), grad)
    assert torch.isfinite(delta).all()
    assert torch.isfinite(slope).all()
