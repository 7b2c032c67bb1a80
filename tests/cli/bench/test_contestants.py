"""The baselines are what they say."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.cli.bench.contestants import METHODS, Driver, Setup
from gmn_opt.cli.bench.muon import MuonAdamW, hidden_matrices, matrices_by_class, split
from gmn_opt.cli.bench.schedules import warmup_cosine
from gmn_opt.cli.bench.training import Problem, Stopped, train
from gmn_opt.graph import trace
from tasks.base import DataTask
from tasks.suites import held_out, validation


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2), nn.Flatten(), nn.Linear(16, 3)
    )


def newton_schulz(matrix: Tensor) -> Tensor:
    """Muon's iteration as it is written down, in float32."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def test_muon_on_flattened_kernels_and_adamw_on_the_rest() -> None:
    """Against both written out; Muon's iteration is in bfloat16."""
    model, twin = convolutional(), convolutional()
    names = hidden_matrices(trace(model, torch.randn(8, 1, 7, 7)))
    assert names == {"0.weight", "2.weight"}
    lr, decay = 0.05, 0.01
    opt = MuonAdamW(*split(model, names), lr)
    rest = [p for n, p in twin.named_parameters() if n not in names]
    other = torch.optim.AdamW(rest, lr=0.15 * lr, betas=(0.9, 0.95), weight_decay=decay)
    momentum = {n: torch.zeros_like(p) for n, p in twin.named_parameters() if n in names}
    for _ in range(4):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        opt.step()
        other.step()
        with torch.no_grad():
            for name, p in twin.named_parameters():
                if name not in names:
                    continue
                assert p.grad is not None
                momentum[name].lerp_(p.grad, 0.05)
                update = p.grad.lerp(momentum[name], 0.95).flatten(1)
                factor = math.sqrt(max(1, update.shape[0] / update.shape[1]))
                p.mul_(1 - lr * decay)
                p.sub_(lr * factor * newton_schulz(update).view(p.shape))
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        moved = (q - convolutional().get_parameter(name)).detach().norm()
        assert float((p - q).detach().norm() / moved) < (0.03 if name in names else 1e-5), name


@pytest.mark.parametrize("task", [*held_out(), *validation()], ids=lambda t: t.name)
def test_graph_and_classes_agree_about_hidden_matrices(task: DataTask) -> None:
    found = hidden_matrices(task.graph)
    assert found == matrices_by_class(task.template)
    assert found
    assert not {"embed.weight", "head.weight", "positions"} & found


def test_a_model_that_cannot_be_traced_still_has_its_matrices() -> None:
    model = convolutional()
    driver = METHODS["muon_cosine"](Setup(model, (), 10, 0.02))
    muon = driver.optimizer.param_groups[0]["params"]
    assert [p.shape for p in muon] == [(6, 1, 3, 3), (4, 6, 3, 3)]


def test_the_schedule_rises_and_comes_down_to_zero() -> None:
    factor = warmup_cosine(100)
    values = [factor(t) for t in range(101)]
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values[5] == 1
    assert values[5 + 95 // 2] == pytest.approx(0.5, abs=0.02)
    assert values[99] < 1e-3
    assert values[100] == pytest.approx(0)
    assert all(a >= b for a, b in pairwise(values[5:]))
    assert warmup_cosine(1)(0) == 1


def problem(factor: float = 1.0) -> Problem:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    batch = torch.randn(5, 2)

    def loss(network: nn.Module, given: Tensor) -> Tensor:
        value: Tensor = factor * network(given).square().mean()
        return value

    def probe() -> float:
        with torch.no_grad():
            return float(loss(model, batch))

    return Problem(model, loss, iter(lambda: batch, None), probe, (batch,))


def test_a_run_is_measured_where_it_should_be() -> None:
    given = problem()
    ticks = iter(range(10**6))
    outcome = train(
        given,
        lambda: METHODS["adamw_cosine"](Setup(given.model, given.inputs, 10, 0.1)),
        10,
        probes=4,
        clock=lambda: next(ticks),
    )
    assert outcome.steps == [0, 2, 5, 8, 10]
    assert outcome.losses[-1] == given.probe() < outcome.losses[0]
    assert len(outcome.minibatch) == 10
    # one tick for making the optimizer, three for a step, one of them for the update
    assert outcome.seconds == [0.0, 7.0, 16.0, 25.0, 31.0]
    assert (outcome.optimizer_ms, outcome.step_ms) == (1000, 3000)
    assert not outcome.diverged


def test_runs_that_break_or_rise() -> None:
    given = problem(1e30)
    outcome = train(
        given,
        lambda: Driver(torch.optim.SGD(given.model.parameters(), lr=1e9)),
        10,
        probes=2,
    )
    assert outcome.broke == 2
    assert outcome.diverged
    given = problem()
    rising = Driver(torch.optim.SGD(given.model.parameters(), lr=0.1, maximize=True))
    assert train(given, lambda: rising, 10, probes=2).diverged
    with pytest.raises(Stopped):
        train(given, lambda: rising, 10, probes=2, stop=lambda: True)


def test_schedule_free_is_judged_by_its_average() -> None:
    pytest.importorskip("pytorch_optimizer")
    given = problem()
    made: list[Driver] = []

    def make() -> Driver:
        made.append(METHODS["schedule_free"](Setup(given.model, given.inputs, 10, 0.1)))
        return made[0]

    outcome = train(given, make, 10, probes=2)
    assert outcome.losses[-1] == given.probe()
    before = given.model.weight.detach().clone()  # type: ignore[operator]
    made[0].train()
    assert not torch.equal(before, given.model.weight)  # type: ignore[arg-type]
