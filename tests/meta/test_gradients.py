"""Recorded inner gradients equal interpreted ones bit by bit, and so do meta-gradients."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from gmn_opt.meta import InnerState
from gmn_opt.meta.estimators import TruncatedBackprop, Window
from gmn_opt.meta.gradients import _HOT, FlatGradients, flat_gradients
from gmn_opt.optim import LearnedRule, RuleConfig
from tasks.classification import ImageClassification
from tests.meta.former import former_unroll
from tests.meta.small_tasks import SMALL, Dropout, Float64, busy_rule, double_state

STEPS = _HOT + 4  # the last steps are recorded ones

tasks = pytest.mark.parametrize("name", SMALL)


@pytest.mark.parametrize("second_order", [False, True])
@tasks
def test_truncated_backprop_is_what_it_was_bit_by_bit(name: str, second_order: bool) -> None:
    """Meta-gradients with recorded inner gradients against the former, interpreted unroll."""
    task, rule, state = SMALL[name], busy_rule(), double_state(SMALL[name], 2)
    task.__dict__.pop("_flat_gradients", None)
    window = Window(
        task, state, STEPS, torch.Generator().manual_seed(2), 30, last_weight=4.0, largest_loss=2.5
    )
    new = TruncatedBackprop(second_order=second_order).estimate(rule, window)
    assert any(t is not None for t in flat_gradients(task, second_order)._traced.values())
    meta_loss, losses, after = former_unroll(
        rule, task, state, STEPS, torch.Generator().manual_seed(2), 30, second_order, 4.0, 2.5
    )
    old = torch.autograd.grad(meta_loss, list(rule.parameters()), allow_unused=True)
    assert torch.equal(new.losses, losses)
    assert torch.equal(new.state.theta, after.theta)
    assert torch.equal(new.meta_loss, meta_loss)
    for (key, p), g in zip(rule.named_parameters(), old, strict=True):
        assert torch.equal(new.gradient[key], torch.zeros_like(p) if g is None else g), key


def test_the_default_rule_in_single_precision_too() -> None:
    task = ImageClassification("digits", 8, (16,), batch_size=32)
    rule = LearnedRule(RuleConfig())
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.02 * torch.randn_like(p))
    state = InnerState.initial(task, 3, torch.Generator().manual_seed(0))
    window = Window(task, state, STEPS, torch.Generator().manual_seed(2))
    new = TruncatedBackprop().estimate(rule, window)
    meta_loss, _, _ = former_unroll(
        rule, task, state, STEPS, torch.Generator().manual_seed(2), None, False
    )
    meta_loss.backward()
    for key, p in rule.named_parameters():
        assert torch.equal(new.gradient[key], torch.zeros_like(p) if p.grad is None else p.grad)


def call(gradients: FlatGradients, task: Float64, times: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    state = double_state(task, 2)
    out = []
    for _ in range(times):
        out.append(gradients(state.theta, task.batch("inner_train", 2, generator)))
    return out


def test_random_draws_stay_the_same() -> None:
    """Dropout draws from the global generator; recording must not consume or freeze its draws."""
    task = Dropout("mnist", 8, (6,), batch_size=4)
    gradients = FlatGradients(task)
    torch.manual_seed(3)
    found = call(gradients, task, _HOT + 5)
    assert all(t is not None for t in gradients._traced.values())
    assert gradients._traced
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    state = double_state(task, 2)
    for grad, value in found:
        batch = task.batch("inner_train", 2, generator)
        grad_2, value_2 = gradients.interpreted(state.theta, batch)
        assert torch.equal(grad, grad_2)
        assert torch.equal(value, value_2)
    assert not torch.equal(found[-1][0], found[-2][0])


class Impure(Float64):
    """A loss that draws from Python's generator: a recording would freeze the draw."""

    def judge(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return super().judge(output, batch) * (1.0 + random.random())


class Unrecordable(Float64):
    """A network that cannot be recorded."""

    def judge(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        if torch.compiler.is_compiling() or _recording():
            raise RuntimeError("not like this")
        return super().judge(output, batch)


def _recording() -> bool:
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None


@pytest.mark.parametrize("kind", [Impure, Unrecordable])
def test_what_cannot_be_recorded_stays_interpreted(kind: type[Float64]) -> None:
    task = kind("mnist", 8, (6,), batch_size=4)
    gradients = FlatGradients(task)
    call(gradients, task, _HOT + 3)
    assert list(gradients._traced.values()) == [None]
    state = double_state(task, 2)
    with pytest.raises(ValueError, match="cannot be recorded"):
        gradients.trace(state.theta, task.batch("inner_train", 2, torch.Generator()))


def test_other_shapes_are_other_recordings() -> None:
    task = SMALL["mlp"]
    gradients = FlatGradients(task)
    call(gradients, task, _HOT + 1)
    state = double_state(task, 3)
    batch = task.batch("inner_train", 3, torch.Generator().manual_seed(0))
    grad, value = gradients(state.theta, batch)
    assert grad.shape == state.theta.shape
    assert value.shape == (3,)
    assert len(gradients._traced) == 1
