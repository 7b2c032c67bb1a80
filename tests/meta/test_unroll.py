"""Unrolled training: vectorized equals one by one, windows join, memory is given back."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from gmn_opt.meta import (
    InnerState,
    MetaConfig,
    MetaTrainer,
    TruncatedBackprop,
    Uniform,
    Window,
    train_inner,
    unroll,
)
from gmn_opt.metanet import blocked
from gmn_opt.optim import RuleConfig
from tasks.classification import ImageClassification
from tests.meta.small_tasks import (
    MLP,
    SMALL,
    Dropout,
    Float64,
    OneTask,
    SameBatch,
    Unreduced,
    busy_rule,
    double_state,
    like,
)

tasks = pytest.mark.parametrize("task", SMALL.values(), ids=SMALL.keys())


def alone(task: Float64, count: int, which: int) -> Float64:
    """The task as network ``which`` of ``count`` sees it."""

    class Alone(type(task)):  # type: ignore[misc]
        def batch(self, split, number, generator):  # type: ignore[no-untyped-def]
            whole = super().batch(split, count, generator)
            return {name: t[which : which + 1] for name, t in whole.items()}

    return like(Alone, task)


@tasks
@pytest.mark.parametrize("second_order", [False, True])
def test_vectorized_equals_one_by_one(task: Float64, second_order: bool) -> None:
    count, steps = 3, 3
    rule, state = busy_rule(), double_state(task, count)
    window = Window(task, state, steps, torch.Generator().manual_seed(1), 9, last_weight=2.0)
    out = unroll(rule, window, second_order)
    meta = 0.0
    for k in range(count):
        generator = torch.Generator().manual_seed(1)
        single = alone(task, count, k)
        own = InnerState(state.theta[k : k + 1], state.moments[k : k + 1], state.step)
        alike = replace(window, task=single, state=own, generator=generator)
        one = unroll(rule, alike, second_order)
        assert torch.allclose(one.losses[:, 0], out.losses[:, k], rtol=1e-10, atol=0)
        assert torch.allclose(one.state.theta[0], out.state.theta[k], rtol=1e-10, atol=1e-12)
        assert torch.allclose(one.state.moments[0], out.state.moments[k], rtol=1e-9, atol=1e-14)
        meta += float(one.meta_loss.detach()) / count
    assert float(out.meta_loss.detach()) == pytest.approx(meta, rel=1e-10)


def test_windows_joined_equal_one_long_run() -> None:
    task = like(SameBatch, MLP)
    rule, start = busy_rule(), double_state(task, 2)
    generator = torch.Generator()
    long = unroll(rule, Window(task, start, 9, generator, 20))
    state, losses = start, []
    for steps in (2, 4, 3):
        out = unroll(rule, Window(task, state, steps, generator, 20))
        state = out.state.detach()
        losses.append(out.losses[:-1])
    losses.append(out.losses[-1:])
    assert state.step == long.state.step == start.step + 9
    assert torch.equal(torch.cat(losses), long.losses)
    assert torch.equal(state.theta, long.state.theta)
    assert torch.equal(state.moments, long.state.moments)


def test_a_run_without_meta_gradients_equals_an_unroll() -> None:
    task = like(SameBatch, MLP)
    rule = busy_rule().float()
    generator = torch.Generator().manual_seed(5)
    start = InnerState.initial(task, 2, generator)

    class Single(SameBatch):
        def batch(self, split, count, generator):  # type: ignore[no-untyped-def]
            batch = super().batch(split, count, generator)
            return {**batch, "x": batch["x"].float()}

    task = like(Single, MLP)
    out = unroll(rule, Window(task, start, 6, generator, 6))
    state, losses = train_inner(rule, task, 6, 2, 5, 6)
    assert torch.allclose(losses, out.losses[:-1], rtol=1e-5)
    assert torch.allclose(state.theta, out.state.theta.detach(), rtol=1e-4, atol=1e-6)
    assert losses.shape == (6, 2)
    assert not state.theta.requires_grad


def test_a_detached_state_keeps_no_graph() -> None:
    out = unroll(busy_rule(), Window(MLP, double_state(MLP, 2), 2, torch.Generator()), True)
    assert out.state.theta.requires_grad
    assert out.state.moments.requires_grad
    assert not out.losses.requires_grad
    state = out.state.detach()
    assert state.theta.grad_fn is None
    assert state.moments.grad_fn is None


def test_first_order_moments_are_constants() -> None:
    out = unroll(busy_rule(), Window(MLP, double_state(MLP, 2), 2, torch.Generator()))
    assert out.state.theta.requires_grad
    assert not out.state.moments.requires_grad


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def test_memory_does_not_grow_over_meta_steps() -> None:
    config = MetaConfig(
        meta_steps=40,
        runs=2,
        max_networks=2,
        estimator=TruncatedBackprop(Uniform(2, 2), second_order=True),
        horizon=(6, 6),
        rule=RuleConfig(hidden=4, edge_hidden=2, layers=1),
    )
    task = ImageClassification("digits", 8, (3,), batch_size=4)
    trainer = MetaTrainer(OneTask(task), config)
    counts = []
    for _ in range(32):  # runs end and begin anew on the way
        trainer.meta_step()
        # outer steps differ in phase: compare like with like
        if trainer.step % 6 == 0:
            counts.append(live_tensors())
    assert counts[-1] <= counts[1], counts
    assert trainer.counts["finished"] >= 8


def test_networks_with_dropout_repeat() -> None:
    """Their draws depend on the run alone, and leave the global random state as it is."""
    task = Dropout("mnist", 8, (6,), batch_size=4)
    rule, state = busy_rule(), double_state(task, 2)
    before = torch.random.get_rng_state()
    one = unroll(rule, Window(task, state, 2, torch.Generator().manual_seed(1)))
    torch.random.set_rng_state(before)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    two = unroll(rule, Window(task, state, 2, torch.Generator().manual_seed(1)))
    assert torch.equal(one.losses, two.losses)
    assert torch.equal(one.state.theta, two.state.theta)
    other = unroll(rule, Window(task, replace(state, step=5), 2, torch.Generator().manual_seed(1)))
    assert not torch.equal(one.losses, other.losses)
    # every network drops units of its own
    theta = state.theta[:1].expand(2, -1)
    shared = {n: t[:1] for n, t in task.batch("inner_train", 1, torch.Generator()).items()}
    drawn = Dropout("mnist", 8, (6,), batch_size=4)
    repeated = {n: t.expand(2, *t.shape[1:]) for n, t in shared.items()}
    object.__setattr__(drawn, "batch", lambda *_: repeated)
    pair = unroll(rule, Window(drawn, replace(state, theta=theta), 1, torch.Generator()))
    assert pair.losses[0, 0] != pair.losses[0, 1]


def test_flat_parameters_come_back_as_named_ones() -> None:
    state = InnerState.initial(MLP, 2, torch.Generator().manual_seed(4))
    params = MLP.initial_params(2, torch.Generator().manual_seed(4))
    back = blocked(MLP.graph).unflatten(state.theta)
    assert all(torch.equal(back[name], p) for name, p in params.items())
    assert state.moments.shape == (2, 3, state.theta.shape[-1])
    assert not state.moments.any()


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one step, received steps=0"):
        unroll(busy_rule(), Window(MLP, double_state(MLP, 1), 0, torch.Generator()))
    with pytest.raises(ValueError, match="received steps=0, count=1"):
        train_inner(busy_rule(), MLP, 0, 1, 0)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    task = Unreduced("mnist", 8, (3,), batch_size=4)
    message = r"mnist8-mlp-3-relu-b4: the loss must be a scalar, received shape \(4,\).*\.mean\(\)"
    with pytest.raises(ValueError, match=message):
        unroll(busy_rule(), Window(task, double_state(task, 2), 1, torch.Generator()))


def test_a_loss_that_is_no_tensor_is_refused() -> None:
    class Number(Float64):
        def judge(self, output, batch):  # type: ignore[no-untyped-def]
            return 1.0

    task = Number("mnist", 8, (3,), batch_size=4)
    with pytest.raises(ValueError, match="scalar tensor, received float"):
        unroll(busy_rule(), Window(task, double_state(task, 2), 1, torch.Generator()))
