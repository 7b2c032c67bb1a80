"""The update rule: equivariant, batched, and Adam-like before any meta-training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import BlockedGraph, blocked
from gmn_opt.optim import LearnedRule, RuleConfig, StepInputs
from gmn_opt.optim.directions import (
    DECAYS,
    DIRECTIONS,
    direction_constants,
    read,
    update_moments,
)
from gmn_opt.optim.orthogonalize import orthogonalize
from tests.cases import Case
from tests.optim.named import NamedState, named_step
from tests.traced import PLAIN, largest_difference, permute, random_tensors, traced

cases = pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.name)


def busy_rule(seed: int = 0) -> LearnedRule:
    """A small rule in float64 whose heads are far from zero."""
    torch.manual_seed(seed)
    rule = LearnedRule(RuleConfig(hidden=8, edge_hidden=4, layers=2)).double()
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
    return update_moments(zeros, grad, direction_constants(layout, grad).rates)


@cases
@pytest.mark.parametrize("horizon", [None, 20])
def test_a_step_is_equivariant(case: Case, horizon: int | None) -> None:
    """Permute, step, and step, permute agree; gradients and state are permuted, not recomputed."""
    graph = traced(case.name, contracted=True)[1]
    rule = busy_rule()
    params, state = start(graph)
    grads = random_tensors(graph, seed=2)
    delta, after = named_step(rule, graph, params, grads, state, horizon)
    moved, moved_after = named_step(
        rule,
        graph,
        permute(graph, params),
        permute(graph, grads),
        permute_state(graph, state),
        horizon,
    )
    assert largest_difference(permute(graph, delta), moved) < 1e-10
    expected = permute_state(graph, after).moments
    for name, moment in expected.items():
        assert largest_difference(moment, moved_after.moments[name]) < 1e-10
    assert any(float(d.abs().max()) > 1e-6 for d in delta.values())


@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm", "attention"])
def test_batched_equals_one_by_one(name: str) -> None:
    graph = traced(name, contracted=True)[1]
    layout = blocked(graph)
    rule = busy_rule()
    theta, grad = (layout.flatten(random_tensors(graph, 3, seed=s)) for s in (1, 2))
    moments = seen_once(layout, grad)
    delta, after = rule.flat_update(StepInputs(graph, theta, grad, moments, 1, 10))
    for i in range(3):
        one, one_after = rule.flat_update(StepInputs(graph, theta[i], grad[i], moments[i], 1, 10))
        assert torch.allclose(one, delta[i], rtol=1e-11, atol=1e-14)
        assert torch.allclose(one_after, after[i], rtol=1e-12)


def test_constants_are_made_once_and_for_every_dtype() -> None:
    graph = traced("cnn", contracted=True)[1]
    layout = blocked(graph)
    with torch.inference_mode():
        fine = direction_constants(layout, torch.zeros(1, dtype=torch.float64))
    assert direction_constants(layout, torch.ones(5, dtype=torch.float64)) is fine
    coarse = direction_constants(layout, torch.zeros(1))
    assert coarse.factors.dtype == torch.float32
    assert torch.equal(coarse.factors, fine.factors.float())
    # what was made in inference mode can be used where gradients are recorded
    assert (torch.ones(1, requires_grad=True) * fine.factors).requires_grad


def test_recording_gradients_changes_nothing() -> None:
    graph = traced("cnn", contracted=True)[1]
    params, state = start(graph)
    grads = random_tensors(graph, seed=2)
    rule = busy_rule()
    plain, _ = named_step(rule, graph, params, grads, state)
    rule.requires_grad_(True)
    recorded, _ = named_step(rule, graph, params, grads, state)
    assert largest_difference(plain, recorded) < 1e-13


def test_untrained_rule_is_adam_in_direction() -> None:
    """With all heads at zero, every block moves along its fast Adam direction."""
    graph = traced("mlp", contracted=True)[1]
    rule = LearnedRule().double()
    params = random_tensors(graph, seed=1)
    state = NamedState.initial(rule, params)
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in params.items()}
    for step in range(1, 4):
        grads = random_tensors(graph, seed=step)
        delta, state = named_step(rule, graph, params, grads, state)
        for name, g in grads.items():
            m, v = moments[name]
            m = DECAYS[0] * m + (1 - DECAYS[0]) * g
            v = DECAYS[2] * v + (1 - DECAYS[2]) * g.square()
            moments[name] = m, v
            adam = (m / (1 - DECAYS[0] ** step)) / (v / (1 - DECAYS[2] ** step)).sqrt()
            cosine = (adam * -delta[name]).sum() / (adam.norm() * delta[name].norm())
            assert float(cosine.detach()) > 1 - 1e-9


def test_update_does_not_depend_on_the_scale_of_the_loss() -> None:
    graph = traced("mlp", contracted=True)[1]
    rule = busy_rule()
    params = random_tensors(graph, seed=1)
    grads = random_tensors(graph, seed=2)
    state = NamedState.initial(rule, params)
    one, _ = named_step(rule, graph, params, grads, state)
    scaled, _ = named_step(rule, graph, params, {n: 1e4 * g for n, g in grads.items()}, state)
    assert largest_difference(one, scaled) < 1e-6


def test_zero_gradients_are_harmless() -> None:
    graph = traced("mlp", contracted=True)[1]
    rule = busy_rule().requires_grad_(True)
    layout = blocked(graph)
    theta = layout.flatten(random_tensors(graph))
    grad = torch.zeros_like(theta).requires_grad_()
    moments = torch.zeros(3, len(theta)).double()
    delta, _ = rule.flat_update(StepInputs(graph, theta, grad, moments, 0))
    (slope,) = torch.autograd.grad(delta.sum(), grad)
    assert torch.isfinite(delta).all()
    assert torch.isfinite(slope).all()


def test_directions_have_unit_scale() -> None:
    graph = traced("cnn", contracted=True)[1]
    layout = blocked(graph)
    theta, grad = (layout.flatten(random_tensors(graph, seed=s)) for s in (1, 2))
    moments = seen_once(layout, grad)
    reading = read(layout, theta, grad, moments, 1)
    for i, channels in enumerate(reading.channels.split(layout.edge_counts, -1)):
        scaled = channels[1:] * reading.inverse_rms[i, 1:, None]
        rms = scaled.square().mean(-1).sqrt()
        assert torch.allclose(rms, torch.ones(len(DIRECTIONS), dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (3, 2, 7, 5)])
def test_orthogonalize_evens_out_singular_values(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    y = orthogonalize(x, steps=6)
    values = torch.linalg.svdvals(y)
    assert float((values.amax(-1) / values.amin(-1)).max()) < 2.5
    assert torch.allclose(y.square().mean((-2, -1)), torch.ones(shape[:-2]).double())
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    exact = u @ vh
    cosine = (exact * y).sum((-2, -1)) / (exact.norm(dim=(-2, -1)) * y.norm(dim=(-2, -1)))
    assert float(cosine.min()) > 0.97


def test_orthogonalize_keeps_zero() -> None:
    assert not orthogonalize(torch.zeros(3, 4)).any()


def test_gram_form_equals_plain_newton_schulz() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 7, dtype=torch.float64)
    plain = x / x.norm()
    for _ in range(4):
        gram = plain @ plain.T
        plain = 3.4445 * plain - 4.7750 * gram @ plain + 2.0315 * gram @ gram @ plain
    plain = plain / plain.square().mean().sqrt()
    assert torch.allclose(orthogonalize(x), plain, rtol=1e-9)
