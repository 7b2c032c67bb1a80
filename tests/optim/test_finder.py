from __future__ import annotations

import gc
import itertools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.optim.finder import find_model, find_owner, read_params, unwrap


class Net(nn.Module):
    """Body in a ModuleList, so that parts of it are not callable."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 4)])
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


def yielding(module: nn.Module) -> Iterator[nn.Parameter]:
    yield from module.parameters()


def same(parameter: nn.Parameter) -> nn.Parameter:
    return parameter


class Agent:
    """Not a module, but holds one and yields its parameters."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.net.parameters()


class Iterable:
    """Neither iterator nor sequence."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(list(self.net.parameters()))


ITERATORS: dict[str, Callable[[Net], Any]] = {
    "parameters": lambda m: m.parameters(),
    "named_parameters": lambda m: m.named_parameters(),
    "expression": lambda m: (p for p in m.parameters() if p.requires_grad),
    "named_expression": lambda m: (p for n, p in m.named_parameters() if "bias" not in n),
    "expression_over_list": lambda m: (p for p in list(m.parameters())),
    "nested_expression": lambda m: (p for p in (q for q in m.parameters())),
    "double_loop": lambda m: (p for c in m.children() for p in c.parameters()),
    "filter": lambda m: filter(lambda p: p.requires_grad, m.parameters()),
    "map": lambda m: map(lambda item: item[1], m.named_parameters()),  # noqa: C417
    "map_of_filter": lambda m: map(same, filter(torch.is_tensor, m.parameters())),
    "chain": lambda m: itertools.chain(m.layers.parameters(), m.head.parameters()),
    "chain_of_one": lambda m: itertools.chain(m.parameters()),
    "islice": lambda m: itertools.islice(m.parameters(), 3),
    "list_iterator": lambda m: iter(list(m.parameters())),
    "values_iterator": lambda m: iter(dict(m.named_parameters()).values()),
    "generator_function": yielding,
    "groups_expression": lambda m: ({"params": c.parameters()} for c in m.children()),
}
CONTAINERS: dict[str, Callable[[Net], Any]] = {
    "list": lambda m: list(m.parameters()),
    "named_list": lambda m: list(m.named_parameters()),
    "tuple": lambda m: tuple(m.parameters()),
    "partial_list": lambda m: [m.layers[0].weight, m.head[2].bias],
    "filtered_list": lambda m: [p for p in m.parameters() if p.ndim > 1],
    "dict_values": lambda m: dict(m.named_parameters()).values(),
    "groups": lambda m: [
        {"params": list(m.layers.parameters()), "lr": 0.1},
        {"params": list(m.head.parameters())},
    ],
    "groups_of_iterators": lambda m: [
        {"params": m.layers.parameters()},
        {"params": filter(lambda p: p.ndim == 2, m.head.parameters())},
    ],
    "mixed_groups": lambda m: [
        {"params": m.layers.parameters()},
        {"params": m.head[0].weight},
        {"params": [m.head[2].bias]},
    ],
    "group_per_parameter": lambda m: [{"params": p} for p in m.parameters()],
    "named_groups": lambda m: [{"params": m.named_parameters()}],
}


def count(params: Any) -> int:
    """How many parameters come out."""
    total = 0
    for item in params:
        inner = item["params"] if isinstance(item, dict) else [item]
        total += 1 if isinstance(inner, Tensor) else len(list(inner))
    return total


@pytest.mark.parametrize("make", (ITERATORS | CONTAINERS).values(), ids=ITERATORS | CONTAINERS)
def test_finds_the_model_and_consumes_nothing(make: Callable[[Net], Any]) -> None:
    net, other = Net(), Net()
    expected = count(make(net))
    params = make(net)
    assert find_model(params) is net
    assert count(params) == expected
    assert find_model(make(other)) is other


@pytest.mark.parametrize("make", (ITERATORS | CONTAINERS).values(), ids=ITERATORS | CONTAINERS)
def test_read_params_gives_items_and_model(make: Callable[[Net], Any]) -> None:
    net = Net()
    items, models = read_params(make(net))
    assert models == [net]
    assert count(items) == count(items) == count(make(net))


@pytest.mark.parametrize("make", [Agent.parameters, Iterable.__iter__, iter])
def test_read_params_searches_when_the_iterator_gives_no_hint(make: Callable[..., Any]) -> None:
    net = Net()
    holder = Agent(net) if make is Agent.parameters else Iterable(net)
    items, models = read_params(make(holder))
    assert models == [net]
    assert len(items) == 8


def test_iterable_object() -> None:
    net = Net()
    items, models = read_params(Iterable(net))
    assert models == [net]
    assert len(items) == 8


def test_read_params_does_not_trust_a_wrong_hint() -> None:
    net, decoy = Net(), Net()

    def misleading(model: nn.Module, source: list[nn.Parameter]) -> Iterator[nn.Parameter]:
        yield from source

    params = misleading(decoy, list(net.parameters()))
    assert find_model(params) is decoy
    assert read_params(params)[1] == [net]


def test_a_part_of_the_model_is_the_smallest_owner() -> None:
    net = Net()
    assert find_model(net.head.parameters()) is net.head
    assert find_model(list(net.head.parameters())) is net.head
    assert find_model([net.head[2].weight]) is net.head[2]


def test_parts_that_cannot_be_called_lead_to_what_can() -> None:
    net = Net()
    assert find_model(net.layers.parameters()) is net
    assert find_model(list(net.layers.parameters())) is net
    assert find_model(iter(net.layers.parameters())) is net


def test_module_with_parameters_of_its_own_and_a_parameter_list() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.ParameterList([torch.zeros(2), torch.zeros(3)])

        def forward(self) -> Tensor:
            return self.rows[0].sum()

    mixture = Mixture()
    assert find_model(mixture.rows) is mixture
    assert find_model(mixture.rows.parameters()) is mixture


def test_forward_given_to_the_instance() -> None:
    layers = nn.ModuleList([nn.Linear(2, 2)])
    layers.forward = types.MethodType(lambda self, x: self[0](x), layers)
    assert find_model(layers.parameters()) is layers


def test_frozen_parameters() -> None:
    net = Net()
    net.layers.requires_grad_(False)
    assert find_model(filter(lambda p: p.requires_grad, net.parameters())) is net
    # A list of what is trainable is exactly the head's.
    assert find_model([p for p in net.parameters() if p.requires_grad]) is net.head


def test_a_generator_that_has_started_and_one_that_has_finished() -> None:
    net = Net()
    params = net.parameters()
    next(params)
    assert find_model(params) is net
    list(params)
    assert find_model(params) is None


def test_two_models_without_a_common_owner() -> None:
    first, second = Net(), Net()
    both = itertools.chain(first.parameters(), second.parameters())
    assert find_model(both) is None
    assert find_model([*first.parameters(), *second.parameters()]) is None
    together = nn.ModuleDict({"first": first, "second": second})
    assert find_model([*first.parameters(), *second.parameters()]) is None
    pair = nn.Sequential(OrderedDict(together.items()))
    assert find_model([*first.parameters(), *second.parameters()]) is pair


@pytest.mark.parametrize(
    "params",
    [
        [],
        iter(()),
        [nn.Parameter(torch.zeros(2))],
        (nn.Parameter(torch.zeros(2)) for _ in range(2)),
        [{"params": [nn.Parameter(torch.zeros(2))]}],
        None,
        3,
        "parameters",
        [{"lr": 0.1}],
    ],
)
def test_parameters_of_no_module(params: object) -> None:
    assert find_model(params) is None


def test_a_single_tensor() -> None:
    net = Net()
    assert find_model(net.layers[0].weight) is net.layers[0]


def test_a_list_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert find_model(loop) is None


def test_of_modules_of_equal_extent_the_outermost() -> None:
    core = Net()
    shell = nn.Sequential(nn.Flatten(), core)
    assert find_model(list(core.parameters())) is shell
    assert find_model(core.parameters()) is core  # the user said so


def test_two_shells_around_one_core() -> None:
    core = Net()
    shells = [nn.Sequential(nn.Flatten(), core), nn.Sequential(core)]
    assert find_model(list(core.parameters())) is core
    del shells


def test_tied_weights() -> None:
    net = Net()
    net.layers[1].weight = net.head[0].weight
    assert find_model(list(net.parameters())) is net


def test_module_whose_init_has_not_run() -> None:
    broken = nn.Module.__new__(Net)
    net = Net()
    assert find_model(list(net.parameters())) is net
    del broken


def test_overridden_parameters_methods_are_not_called_by_the_search() -> None:
    class Shy(Net):
        def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
            raise AssertionError("nobody asked")

    bystander = Shy()
    assert find_model([*bystander.layers.parameters(), *bystander.head.parameters()]) is bystander


def test_lazy_proxies_are_not_woken() -> None:
    def woken(self: object) -> type:
        raise AssertionError("woken")

    proxies = [type("Proxy", (), {"__class__": property(woken)})()]
    assert find_owner({0}) is None
    assert gc.is_tracked(proxies)


def test_compiled() -> None:
    net = Net()
    compiled = cast(nn.Module, torch.compile(net, backend="eager"))
    assert find_model(compiled.parameters()) is net
    assert find_model(net.parameters()) is net
    assert find_model(list(compiled.parameters())) is net
    assert unwrap(compiled) is net


def test_data_parallel() -> None:
    net = Net()
    wrapped = nn.DataParallel(net)
    assert find_model(wrapped.parameters()) is net
    assert find_model(list(wrapped.parameters())) is net


def test_distributed(tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net = Net()
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert find_model(wrapped.parameters()) is net
        assert find_model(list(wrapped.parameters())) is net
        both = cast(nn.Module, torch.compile(wrapped, backend="eager"))
        assert find_model(both.parameters()) is net
    finally:
        torch.distributed.destroy_process_group()


def test_the_search_keeps_nothing_alive() -> None:
    gc.disable()
    try:
        net = Net()
        find_model(list(net.parameters()))
        read_params(net.parameters())
        alive = weakref.ref(net)
        del net
        assert alive() is None
    finally:
        gc.enable()
