"""What stands in the parameter groups at a step is trained, with the settings of its group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.optim.contract.kit import (
    New,
    close,
    finite,
    network,
    same,
    train,
    weights_of,
    with_gradient,
)


def test_a_rate_of_its_own(new: New) -> None:
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    before = weights_of(model)
    train(model, new(groups))
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[2].weight, before["2.weight"])


def test_a_decay_of_its_own(new: New) -> None:
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = new([{"params": [p], "weight_decay": 10.0}, {"params": [q]}])
    p.grad, q.grad = torch.ones(3), torch.ones(3)
    opt.step()
    assert torch.allclose(q - p, torch.full((3,), 0.01), atol=1e-6)


def test_decay_acts_on_the_weights_and_not_on_the_gradient(new: New) -> None:
    p, q = with_gradient([1.0, -2.0]), with_gradient([1.0, -2.0])
    new([p], weight_decay=10.0).step()
    new([q]).step()
    assert torch.allclose(q - p, 0.01 * torch.tensor([1.0, -2.0]), atol=1e-5)


def test_adding_a_group(new: New) -> None:
    model = network()
    opt = new(model[0].parameters())
    train(model, opt)
    opt.add_param_group({"params": model[2].parameters(), "lr": 0.5 * new.lr})
    before = weights_of(model)
    train(model, opt)
    assert not torch.equal(before["2.weight"], model[2].weight)
    assert opt.param_groups[1]["lr"] == 0.5 * new.lr
    assert opt.param_groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize("bad", [1, [1], "twice"])
def test_adding_what_is_no_group(new: New, bad: object) -> None:
    model = network()
    opt = new(model.parameters())
    with pytest.raises((TypeError, ValueError, KeyError)):
        opt.add_param_group({"params": list(model.parameters()) if bad == "twice" else bad})
    assert len(opt.param_groups) == 1


def test_replacing_a_parameter(new: New) -> None:
    p = nn.Parameter(torch.ones(4, 3))
    opt = new([p])
    for step in range(8):
        if step == 4:
            p = nn.Parameter(torch.ones(6, 3))
            opt.param_groups[0]["params"][0] = p
        opt.zero_grad()
        p.square().sum().backward()
        opt.step()
    assert not torch.equal(p, torch.ones(6, 3))
    assert finite(p)


def test_replacing_a_layer_of_the_model(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    model[2] = nn.Linear(8, 3)
    start = weights_of(model)
    opt.param_groups[0]["params"][2:] = list(model[2].parameters())
    train(model, opt)
    assert all(not torch.equal(start[n], p) for n, p in model.named_parameters())


def test_appending_a_parameter(new: New) -> None:
    model, extra = network(), nn.Parameter(torch.ones(3))
    opt = new(model.parameters())
    train(model, opt)
    opt.param_groups[0]["params"].append(extra)
    train(lambda x: model(x) * extra, opt)
    assert not torch.equal(extra, torch.ones(3))


def test_removing_a_parameter(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    before = weights_of(model)
    del opt.param_groups[0]["params"][0]
    train(model, opt)
    assert torch.equal(before["0.weight"], model[0].weight)
    assert not torch.equal(before["0.bias"], model[0].bias)


def test_replacing_the_data_of_a_parameter(new: New) -> None:
    model, expected = network(), network()
    opt = new(model.parameters())
    other = new(expected.parameters())
    train(model, opt)
    train(expected, other)
    model[0].weight.data = 2 * model[0].weight.data
    with torch.no_grad():
        expected[0].weight.mul_(2)
    train(model, opt)
    train(expected, other)
    assert same(model, expected)


def test_names_are_kept(new: New) -> None:
    opt = new(network().named_parameters())
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert opt.param_groups[0]["param_names"] == names
    assert opt.state_dict()["param_groups"][0]["param_names"] == names


def test_maximize_is_descent_on_the_negative(new: New) -> None:
    up, down = with_gradient([1.0, -2.0]), with_gradient([1.0, -2.0], [-1.0, 2.0])
    new([up], maximize=True).step()
    new([down]).step()
    assert torch.equal(up, down)
    assert not torch.equal(up, torch.tensor([1.0, -2.0]))


def test_maximize_in_one_group(new: New) -> None:
    p, q = with_gradient([1.0]), with_gradient([1.0])
    new([{"params": [p], "maximize": True}, {"params": [q]}]).step()
    assert float(p.detach()) > 1 > float(q.detach())


def test_the_order_of_groups_does_not_matter(new: New) -> None:
    one, two = network(), network()
    train(one, new([{"params": one[0].parameters()}, {"params": one[2].parameters()}]))
    train(two, new([{"params": two[2].parameters()}, {"params": two[0].parameters()}]))
    assert close(one, two)


def test_freezing_and_unfreezing(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    model[0].requires_grad_(False)
    before = weights_of(model)
    train(model, opt)
    assert torch.equal(before["0.weight"], model[0].weight)
    model[0].requires_grad_(True)
    train(model, opt)
    assert not torch.equal(before["0.weight"], model[0].weight)


def test_two_optimizers_of_one_model(new: New) -> None:
    model = network()
    first, second = new(model[0].parameters()), new(model[2].parameters())
    before = weights_of(model)
    for x in torch.randn(3, 5, 4):
        model(x).square().sum().backward()
        first.step()
        second.step()
        model.zero_grad()
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters())


def test_one_optimizer_of_two_models(new: New) -> None:
    one, two = network(1), nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3))
    opt = new([*one.parameters(), *two.parameters()])
    before = weights_of(one), weights_of(two)
    train(lambda x: two(one(x)), opt)
    for model, start in zip((one, two), before, strict=True):
        assert all(not torch.equal(start[n], p) for n, p in model.named_parameters())
