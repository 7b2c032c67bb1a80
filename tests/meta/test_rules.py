"""Rules: many versions at once equal one by one; the small rule keeps the contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.meta import (
    InnerState,
    SmallRule,
    SmallRuleConfig,
    StackedRule,
    Window,
    train_inner,
    unroll,
)
from gmn_opt.meta.rules import _Update, flat_vector, named_like
from gmn_opt.optim import LearnedRule, StepInputs
from tests.meta.small_tasks import CNN, MLP, Float64, busy_rule, double_state

COUNT = 4


def small_rule(hidden: int = 5) -> SmallRule:
    rule = SmallRule(SmallRuleConfig(hidden)).double()
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return rule


def versions(rule: Any) -> dict[str, Tensor]:
    return {
        n: torch.stack([p.detach() + 0.05 * torch.randn_like(p) for _ in range(COUNT)])
        for n, p in rule.named_parameters()
    }


def inputs(task: Float64) -> tuple[InnerState, Tensor]:
    state = double_state(task, COUNT)
    return state, 0.1 * torch.randn_like(state.theta)


@pytest.mark.parametrize("make", [busy_rule, small_rule], ids=["learned", "small"])
@pytest.mark.parametrize("task", [MLP, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize("horizon", [None, 40])
@torch.no_grad()
def test_stacked_versions_equal_one_by_one(make: Any, task: Float64, horizon: int | None) -> None:
    rule: LearnedRule | SmallRule = make()
    state, grad = inputs(task)
    parameters = versions(rule)
    stacked = StackedRule(rule, parameters)
    thought = None
    for step in (4, 5):  # thinks, and reuses what it thought
        known = task.graph, state.theta, grad, state.moments, step, horizon, False, thought
        both = StepInputs(*known)
        delta, moments, after_thought = stacked.flat_update(both)
        for k in range(COUNT):
            rule.load_state_dict({n: p[k] for n, p in parameters.items()})
            own = replace(
                both,
                theta=state.theta[k],
                grad=grad[k],
                moments=state.moments[k],
                thought=None if thought is None else thought[k],
            )
            one, after, _ = rule.flat_update(own)
            assert torch.allclose(delta[k], one, rtol=1e-9, atol=1e-13)
            assert torch.allclose(moments[k], after, rtol=1e-10, atol=1e-16)
        thought = after_thought


@torch.no_grad()
def test_the_fast_stack_of_small_rules_equals_vmap() -> None:
    rule, (state, grad) = small_rule(), inputs(MLP)
    parameters = versions(rule)
    fast = StackedRule(rule, parameters)
    slow = StackedRule(rule, parameters)
    slow._own = None
    assert isinstance(slow._module, _Update)
    given = StepInputs(MLP.graph, state.theta, grad, state.moments, 3, 20)
    one, other = fast.flat_update(given), slow.flat_update(given)
    assert torch.allclose(one.delta, other.delta, rtol=1e-9, atol=1e-14)
    assert torch.allclose(one.moments, other.moments, rtol=1e-9, atol=1e-14)


def test_an_untrained_small_rule_is_adam() -> None:
    """Its head is zero: the fast momentum over sqrt(v), at a constant step scaled by the fan-in."""
    rule, (state, grad) = SmallRule().double(), inputs(MLP)
    assert sum(p.numel() for p in rule.parameters()) == 164
    zero = torch.zeros_like(state.moments)
    delta, moments, _ = rule.flat_update(StepInputs(MLP.graph, state.theta, grad, zero, 0))
    assert torch.equal(delta.sign(), -grad.sign())
    # after one gradient every entry moves by the same step within a block
    first = delta[0, : 64 * 5].abs()
    assert torch.allclose(first, first[0].expand_as(first), rtol=1e-6)
    assert torch.allclose(moments[:, 0], 0.1 * grad)


def test_a_small_rule_trains_and_has_meta_gradients() -> None:
    task, rule = MLP, small_rule()
    window = Window(task, double_state(task, 2), 3, torch.Generator().manual_seed(0), 9)
    out = unroll(rule, window, second_order=True)
    grads = torch.autograd.grad(out.meta_loss, list(rule.parameters()))
    assert all(bool(g.any()) for g in grads)

    class Single(Float64):
        def batch(self, split: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
            batch = super().batch(split, count, generator)
            return {**batch, "x": batch["x"].float()}

    single = Single("mnist", 8, (16,), batch_size=32)
    _, losses = train_inner(SmallRule(), single, 60, 2, 0)
    assert float(losses[-10:].mean()) < 0.6 * float(losses[0].mean())


def test_vectors_and_names() -> None:
    own = dict(small_rule().named_parameters())
    flat = flat_vector(own)
    back = named_like(torch.stack([flat, 2 * flat]), own)
    for name, p in own.items():
        assert torch.equal(back[name][1], 2 * p)
    scalar = {"a": torch.tensor(2.0), "b": torch.ones(2)}
    assert named_like(flat_vector(scalar), scalar)["a"].shape == ()


def test_sizes_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be at least 1, received 0"):
        SmallRuleConfig(0)
