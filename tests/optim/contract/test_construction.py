"""What may be passed, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.optim.contract.kit import New, network, same, train, weights_of

FORMS: dict[str, Callable[[Any], Any]] = {
    "generator": lambda m: m.parameters(),
    "list": lambda m: list(m.parameters()),
    "tuple": lambda m: tuple(m.parameters()),
    "named": lambda m: m.named_parameters(),
    "named_list": lambda m: list(m.named_parameters()),
    "expression": lambda m: (p for p in m.parameters()),
    "filter": lambda m: filter(lambda p: p.requires_grad, m.parameters()),
    "dict_values": lambda m: dict(m.named_parameters()).values(),
    "groups": lambda m: [{"params": m[0].parameters()}, {"params": list(m[2].parameters())}],
    "one_tensor_in_a_group": lambda m: [{"params": p} for p in m.parameters()],
    "generator_of_groups": lambda m: ({"params": [p]} for p in m.parameters()),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_parameters(new: New, form: str) -> None:
    model, expected = network(), network()
    train(expected, new(list(expected.parameters())))
    train(model, new(FORMS[form](model)))
    assert same(model, expected)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (list, ValueError),
        (lambda: iter(()), ValueError),
        (lambda: nn.Parameter(torch.ones(2)), TypeError),
        (lambda: [{"params": {nn.Parameter(torch.ones(2))}}], TypeError),
        (lambda: [1.0], TypeError),
        (lambda: ["weight"], TypeError),
        (lambda: [nn.Parameter(torch.ones(2)) * 2], ValueError),
    ],
    ids=["empty", "exhausted", "tensor", "set", "numbers", "strings", "non_leaf"],
)
def test_what_is_no_list_of_parameters(
    new: New, make: Callable[[], Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        new(make())


def test_a_parameter_in_two_groups(new: New) -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="more than one parameter group"):
        new([{"params": [p]}, {"params": [p]}])


def test_a_parameter_twice_in_a_group(new: New) -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        opt = new([p, p])
    p.grad = torch.ones(2)
    opt.step()
    assert torch.isfinite(p).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
    ],
    ids=str,
)
def test_settings_out_of_range(new: New, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lr|learning rate|weight_decay"):
        new(network().parameters(), **settings)


def test_an_unknown_setting(new: New) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        new(network().parameters(), learning_rate=1.0)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_learning_rate_that_is_a_tensor(new: New, as_tensor: bool) -> None:
    model, expected = network(), network()
    train(expected, new(expected.parameters(), lr=0.5 * new.lr))
    lr = torch.tensor(0.5 * new.lr, dtype=torch.float64) if as_tensor else 0.5 * new.lr
    train(model, new(model.parameters(), lr=lr))
    assert same(model, expected)


def test_defaults_and_groups_show_the_settings(new: New) -> None:
    opt = new(network().parameters(), lr=0.5 * new.lr, weight_decay=0.1)
    for shown in (opt.defaults, opt.param_groups[0]):
        assert (shown["lr"], shown["weight_decay"]) == (0.5 * new.lr, 0.1)
    assert not opt.param_groups[0]["maximize"]


def test_it_prints(new: New) -> None:
    assert "weight_decay: 0.5" in repr(new(network().parameters(), weight_decay=0.5))


def test_nothing_is_kept_before_the_first_step(new: New) -> None:
    opt = new(network().parameters())
    assert len(opt.state) == 0
    assert opt.state_dict()["state"] == {}


def test_construction_changes_nothing(new: New) -> None:
    model = network()
    before, random = weights_of(model), torch.random.get_rng_state()
    new(model.parameters())
    assert same(model, before)
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_frozen_tensors_of_any_dtype(new: New, dtype: torch.dtype) -> None:
    """Quantized backbones come along with what is trained."""
    model = network()
    packed = nn.Parameter(torch.ones(3, 3).to(dtype), requires_grad=False)
    train(model, new([packed, *model.parameters()]))
    assert torch.equal(packed, torch.ones(3, 3).to(dtype))
    assert not same(model, network())


def test_under_another_default_device(new: New) -> None:
    model, expected = network(), network()
    train(expected, new(expected.parameters()))
    with torch.device("meta"):
        opt = new(model.parameters())
    train(model, opt)
    assert same(model, expected)
