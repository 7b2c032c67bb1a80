"""torch.compile around the model, around a step, around everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.optim.contract.kit import New, batches, close, network, train

# torch's own, from looking at what a graph break carries over
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def expectation(new: New) -> Any:
    model = network()
    train(model, new(model.parameters()))
    return model


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("params", ["of_the_model", "of_the_compiled"])
def test_a_compiled_model(new: New, fullgraph: bool, params: str) -> None:
    model = network()
    compiled: Any = torch.compile(model, backend="eager", fullgraph=fullgraph)
    opt = new((model if params == "of_the_model" else compiled).parameters())
    train(compiled, opt)
    assert close(model, expectation(new))  # a compiler may round otherwise


def test_a_model_compiled_in_place(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    model.compile(backend="eager")
    train(model, opt)
    assert close(model, expectation(new))  # a compiler may round otherwise


def test_a_compiled_step(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    step = torch.compile(opt.step, backend="eager")
    for x, y in batches(3):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        step()
    assert close(model, expectation(new))  # a compiler may round otherwise


def test_a_compiled_loss_function(new: New) -> None:
    model = network()
    opt = new(model.parameters())

    @torch.compile(backend="eager")
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y)

    for x, y in batches(3):
        opt.zero_grad()
        loss(x, y).backward()
        opt.step()
    assert close(model, expectation(new))  # a compiler may round otherwise


def test_a_compiled_training_step(new: New) -> None:
    model = network()
    opt = new(model.parameters())

    @torch.compile(backend="eager")
    def step(x: Tensor, y: Tensor) -> None:
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()

    for x, y in batches(3):
        step(x, y)
    assert close(model, expectation(new))  # a compiler may round otherwise


def test_a_compiled_closure(new: New) -> None:
    model = network()
    opt = new(model.parameters())

    @torch.compile(backend="eager")
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y)

    for x, y in batches(3):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            opt.zero_grad()
            value = loss(x, y)
            value.backward()
            return value

        opt.step(closure)  # type: ignore[arg-type]
    assert close(model, expectation(new))  # a compiler may round otherwise


@pytest.mark.parametrize("way", ["script", "trace", "export"])
def test_other_forms_of_a_model(new: New, way: str) -> None:
    model = network()
    form: Any
    if way == "script":
        form = torch.jit.script(model)
    elif way == "trace":
        form = torch.jit.trace(model, torch.randn(16, 4))
    else:
        form = torch.export.export(model, (torch.randn(16, 4),)).module()
    opt = new(form.parameters())
    before = [p.detach().clone() for p in form.parameters()]
    train(form, opt)
    assert all(not torch.equal(a, b) for a, b in zip(before, form.parameters(), strict=True))
