"""Learning rate schedulers, and what a learning rate does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

from tests.optim.contract.kit import New, network, same, train, weights_of

STEPS = 6
SCHEDULERS: dict[str, Callable[[Optimizer, float], Any]] = {
    "LambdaLR": lambda o, lr: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o, lr: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o, lr: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o, lr: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o, lr: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o, lr: lr_scheduler.LinearLR(o, 0.01, total_iters=4),
    "ExponentialLR": lambda o, lr: lr_scheduler.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o, lr: lr_scheduler.PolynomialLR(o, STEPS),
    "CosineAnnealingLR": lambda o, lr: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o, lr: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o, lr: lr_scheduler.OneCycleLR(
        o, lr, total_steps=STEPS + 1, cycle_momentum=False
    ),
    "CyclicLR": lambda o, lr: lr_scheduler.CyclicLR(o, 0.1 * lr, lr, 2, cycle_momentum=False),
    "warmup_then_cosine": lambda o, lr: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.01, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 4)],
        [3],
    ),
    "ChainedScheduler": lambda o, lr: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o, lr: torch.optim.swa_utils.SWALR(o, 0.5 * lr, 3),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_work_without_a_word(new: New, name: str) -> None:
    """Warnings are errors here."""
    model = network()
    opt = new(model.parameters())
    scheduler = SCHEDULERS[name](opt, new.lr)
    train(model, opt, STEPS, scheduler=scheduler)
    assert not same(model, network())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_give_the_same_factors(new: New, name: str) -> None:
    plain = torch.optim.SGD(network().parameters(), lr=1.0)
    expected = SCHEDULERS[name](plain, 1.0)
    model = network()
    opt = new(model.parameters())
    scheduler = SCHEDULERS[name](opt, new.lr)
    for _ in range(STEPS):
        assert opt.param_groups[0]["lr"] / new.lr == pytest.approx(plain.param_groups[0]["lr"])
        train(model, opt, 1)
        plain.step()
        scheduler.step()
        expected.step()


def test_reduce_on_plateau(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    scheduler = lr_scheduler.ReduceLROnPlateau(opt, patience=0)
    for loss in (1.0, 2.0, 3.0):
        train(model, opt, 1)
        scheduler.step(loss)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.01 * new.lr)


@pytest.mark.parametrize("seen", [0, 1, 4])
@pytest.mark.parametrize("factor", [0.5, 0.01, 2.0])
def test_the_update_is_proportional_to_the_rate(new: New, seen: int, factor: float) -> None:
    """At equal weights, gradients and state."""
    model = network().double()
    opt = new(model.parameters())

    def step(model: Any, opt: Optimizer, seed: int) -> dict[str, torch.Tensor]:
        before = weights_of(model)
        opt.zero_grad()
        x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        model(x).square().mean().backward()
        opt.step()
        return {n: p - before[n] for n, p in weights_of(model).items()}

    for seed in range(seen):
        step(model, opt, seed)
    twin, other = copy.deepcopy((model, opt))
    other.param_groups[0]["lr"] = factor * new.lr
    one, two = step(model, opt, 9), step(twin, other, 9)
    assert all(torch.allclose(two[n], factor * d, rtol=1e-6, atol=1e-12) for n, d in one.items())


def test_a_rate_of_zero_changes_nothing(new: New) -> None:
    model = network()
    train(model, new(model.parameters(), lr=0.0, weight_decay=0.1))
    assert same(model, network())


def test_the_state_advances_at_a_rate_of_zero(new: New) -> None:
    model = network()
    opt = new(model.parameters(), lr=0.0)
    train(model, opt)
    assert float(opt.state[model[0].weight]["step"]) == 3


def test_a_rate_set_by_hand(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    before = weights_of(model)
    opt.param_groups[0]["lr"] = 0.0
    train(model, opt)
    assert same(model, before)


def test_a_scheduler_resumes(new: New) -> None:
    one, two = network(), network()
    opt, other = new(one.parameters()), new(two.parameters())
    first, second = (lr_scheduler.CosineAnnealingLR(o, 6) for o in (opt, other))
    train(one, opt, 3, scheduler=first)
    two.load_state_dict(one.state_dict())
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    second.load_state_dict(first.state_dict())
    train(one, opt, 3, 1, first)
    train(two, other, 3, 1, second)
    assert same(one, two)


@pytest.mark.parametrize("kind", [lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR])
def test_cycles_of_momentum(new: New, kind: Any) -> None:
    """They are the default of these schedulers. AdamW has one to cycle, ours lets them pass."""
    one_cycle = kind is lr_scheduler.OneCycleLR
    model, expected = network(), network()
    opt, other = new(model.parameters()), new(expected.parameters())
    settings: dict[str, Any] = {"total_steps": 9} if one_cycle else {"max_lr": new.lr}
    first = kind(opt, new.lr if one_cycle else 0.1 * new.lr, **settings)
    second = kind(other, new.lr if one_cycle else 0.1 * new.lr, **settings, cycle_momentum=False)
    train(model, opt, STEPS, scheduler=first)
    train(expected, other, STEPS, scheduler=second)
    assert same(model, expected) == (new.lr == 1)
