"""Training goes on after widening, with the optimizer's state brought along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.graph import trace
from gmn_opt.optim import GMNOptimizer
from gmn_opt.widening import WidenError, plan_widening
from tests.graph.models import mlp

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, amsgrad=True),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9),
    "gmn": lambda model: GMNOptimizer(model.parameters(), model=model),
}


def problem() -> tuple[Tensor, Tensor]:
    x = torch.randn(128, 4)
    return x, torch.stack([(3 * x[:, 0]).sin() * x[:, 1], x[:, 2].abs()], 1)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor], steps: int
) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = F.mse_loss(model(data[0]), data[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on(name: str) -> None:
    data = problem()
    model = mlp(4, 5, 5, 2)
    graph = trace(model, data[0])
    optimizer = OPTIMIZERS[name](model)
    first = train(model, optimizer, data, 25)
    plan = plan_widening(model, graph, [s.id for s in graph.spaces], 3, data[0])
    wide = plan.apply(model, noise=0.5, generator=torch.Generator().manual_seed(0))
    wider = OPTIMIZERS[name](wide)
    wider.load_state_dict(plan.optimizer_state(optimizer, model))
    went_on = train(wide, wider, data, 40)
    kept = train(model, optimizer, data, 40)
    assert went_on[0] == pytest.approx(kept[0], rel=1e-4)
    assert went_on[-1] < first[-1]
    assert went_on[-1] < 1.2 * kept[-1]  # the noise that parts the copies costs a little


@pytest.mark.parametrize("name", ["adamw", "gmn"])
def test_the_state_is_what_a_wide_model_would_have_gathered(name: str) -> None:
    """With a rate of zero, so that the weights are the same throughout."""
    x = torch.randn(64, 4, dtype=torch.float64)
    data = x, x[:, :2].sin()
    model = mlp(4, 5, 3, 2).double()
    graph = trace(model, x)
    plan = plan_widening(model, graph, [s.id for s in graph.spaces], 2, x)
    wide = plan.apply(model)
    optimizers: list[Any] = []
    for network in (model, wide):
        optimizer = OPTIMIZERS[name](network)
        optimizer.param_groups[0]["lr"] = 0.0
        train(network, optimizer, data, 3)
        optimizers.append(optimizer)
    expected = optimizers[1].state_dict()["state"]
    found = plan.optimizer_state(optimizers[0], model)["state"]
    assert found.keys() == expected.keys()
    for index, entries in expected.items():
        for key, value in entries.items():
            torch.testing.assert_close(found[index][key], value, rtol=1e-7, atol=1e-12)


def test_state_that_does_not_follow_its_parameter() -> None:
    x = torch.randn(8, 4)
    model = mlp(4, 5, 2)
    graph = trace(model, x)
    plan = plan_widening(model, graph, graph.spaces[0], 2, x)
    factored = torch.optim.Adafactor(model.parameters())
    train(model, factored, (x, x[:, :2]), 1)
    with pytest.raises(WidenError, match="Begin with a new optimizer"):
        plan.optimizer_state(factored, model)
    other = torch.optim.SGD(mlp(4, 5, 2).parameters())
    with pytest.raises(WidenError, match="parameters that are not the model's"):
        plan.optimizer_state(other, model)
