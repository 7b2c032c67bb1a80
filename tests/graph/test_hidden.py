"""Models that hide from the trace: nothing wrong is claimed, and nothing is left behind."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmn_opt import GMNOptimizer
from gmn_opt.graph import ParameterGraph, TraceError, trace
from tests.graph.models.hidden import HIDDEN, MEMORY, MODES, OUTPUTS, STATE, UNSEEN, Case, Hidden


def test_every_kind_has_several_models() -> None:
    for kind in (OUTPUTS, STATE, MODES, MEMORY, UNSEEN):
        assert len({case.name for case in kind}) >= 4


def picture(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """Everything in a value, written out, so that two times can be compared."""
    if id(value) in seen:
        return "again"
    seen = (*seen, id(value))
    if isinstance(value, Tensor):
        grad = None if not value.is_leaf else picture(value.grad, seen)
        return (type(value).__name__, tuple(value.shape), value.tolist(), value.requires_grad,
                grad, picture(vars(value), seen))  # fmt: skip
    if isinstance(value, dict):
        return [(str(k), picture(v, seen)) for k, v in value.items()]
    if isinstance(value, set):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple, deque)):
        return [picture(v, seen) for v in value]
    if isinstance(value, nn.Module) or type(value).__name__ == "Store":
        slots = [getattr(value, s) for s in getattr(value, "__slots__", ())]
        return (type(value).__name__, picture([*slots, getattr(value, "__dict__", {})], seen))
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)


def result(case: Case, state: dict[str, Tensor], x: Tensor, train: bool) -> list[Tensor]:
    """What a fresh model of a case gives with certain weights, on its first two calls."""
    model = case.make()[0].double().train(train)
    if model.cache is not None and isinstance(model.cache, Tensor):
        model.cache = model.c.weight.data if model.cache.numel() else model.cache.double()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.data = state[name].clone()
        if case.name == "shares_with_attribute":
            model.cache = model.c.weight.data
        out = []
        for _ in range(2):
            out += case.read(model, model(x))
    return [t.clone() for t in out]


@pytest.mark.parametrize("case", HIDDEN, ids=lambda c: c.name)
@pytest.mark.parametrize("verify", [None, False])
def test_nothing_wrong_is_claimed(case: Case, verify: bool | None) -> None:
    model, x = case.make()
    before = picture(model)
    graph = trace(model, x, verify=verify)
    assert picture(model) == before
    assert len(graph.spaces) >= case.spaces, str(graph)
    state = {k: v.detach().double() for k, v in (*model.named_parameters(),
                                                 *model.named_buffers())}  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for train in (False, True):
        if train and case.batch == 1:
            continue
        expected = result(case, state, x.double(), train)
        for _ in range(3):
            moved = graph.permute(state, graph.random_symmetry(generator))
            found = result(case, moved, x.double(), train)
            for one, other in zip(expected, found, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_what_one_image_hides_in_training_mode() -> None:
    """Training mode fails on one image; what the unread head could read is fixed, and named."""
    case = next(c for c in MODES if c.name == "auxiliary_needs_two")
    graph = trace(*case.make())
    assert not graph.spaces
    assert graph.fixed_reasons["c.weight"][1] == "parameters that were not read may read it"
    assert any("training mode could not be traced" in note for note in graph.notes)
    assert any("extra.weight" in note for note in graph.notes)


@pytest.mark.parametrize("case", STATE[:-1], ids=lambda c: c.name)
def test_the_first_step_of_an_optimizer_leaves_no_state(case: Case) -> None:
    """Beside what the user's own call stores, and the step itself, nothing changes."""
    twin, x = case.make()
    case.read(twin, twin(x))[0].sum().backward()
    model, _ = case.make()
    opt = GMNOptimizer(model.parameters(), lr=1.0)
    case.read(model, model(x))[0].sum().backward()
    state = {n: v for n, v in vars(model).items() if n not in ("_modules", "_parameters", "body")}
    other = {n: vars(twin)[n] for n in state}
    hooks = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks")
    opt.step()
    for name in state:
        if name not in hooks:
            assert picture(state[name]) == picture(other[name]), name


class Returns(nn.Module):
    """Gives back whatever it is told to."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.give = give

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.a(x))
        return self.give(h, self.b(h))


@pytest.mark.parametrize("give", [lambda h, y: None, lambda h, y: "text", lambda h, y: [{}, 3]])
def test_outputs_without_tensors_are_refused(give: Any) -> None:
    with pytest.raises(TraceError, match="no tensor was found"):
        trace(Returns(give), torch.randn(2, 4))


def test_a_check_that_compares_nothing_does_not_pass() -> None:
    for give in (lambda h, y: y[:0], lambda h, y: y * math.nan):
        model, x = Returns(give), torch.randn(2, 4)
        with pytest.raises(ValueError, match="nothing to compare"):
            trace(model, x, verify=False).verify(model, x)
        graph = trace(model, x)
        assert any("not checked numerically" in note for note in graph.notes)
        with pytest.raises(ValueError, match="nothing to compare"):
            trace(model, x, verify=True)


def test_what_is_left_out_is_named_and_can_be_kept() -> None:
    model = Returns(lambda h, y: {"logits": y, "past_key_values": (h,)})
    x = torch.randn(2, 4)
    graph = trace(model, x)
    assert len(graph.spaces) == 1
    assert any("'past_key_values'" in note for note in graph.notes)
    assert "past_key_values" in str(graph)
    assert ParameterGraph.from_json(graph.to_json()).notes == graph.notes
    assert not trace(model, x, outputs="all").spaces
    with pytest.raises(ValueError, match="outputs must be"):
        trace(model, x, outputs="some")  # type: ignore[arg-type]


def test_what_is_stored_in_the_model_can_be_kept() -> None:
    def body(m: Hidden, x: Tensor) -> Tensor:
        m.cache = m.hidden(x)
        return m.c(m.cache)

    model, x = Hidden(body), torch.randn(2, 4)
    assert len(trace(model, x).spaces) == 2
    assert any("'cache', stored in the model" in note for note in trace(model, x).notes)
    assert len(trace(model, x, outputs="all").spaces) == 1


def test_the_checker_sees_shared_memory() -> None:
    """Freed by hand, two biases on one memory are caught."""
    case = next(c for c in HIDDEN if c.name == "shares_bias")
    model, x = case.make()
    apart = trace(next(c for c in HIDDEN if c.name == "shares_nothing").make()[0], x)
    assert len(apart.spaces) == 2
    assert replace(apart).verify(model, x) > 1e-3


def test_operators_that_take_functions_fix_what_they_read() -> None:
    def give(h: Tensor, y: Tensor) -> Any:
        return y, torch.cond(y.sum() > 0, lambda h: h * 2, lambda h: h + 1, (h,))

    graph = trace(Returns(give), torch.randn(2, 4))
    assert not graph.spaces
    assert "cond has no rule" in graph.fixed_reasons["a.weight"][0]


def test_a_rule_that_fails_late_stops_nothing() -> None:
    def give(h: Tensor, y: Tensor) -> Tensor:
        return y + torch.cat([y.new_empty(0), y.new_empty(0)]).unique().sum()

    assert len(trace(Returns(give), torch.randn(2, 4)).spaces) == 1


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_parameters_without_elements() -> None:
    model = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 8], div_value=9.0)
    graph = trace(model, torch.randn(5, 8), torch.randint(12, (5,)))
    empty = {n for n, p in model.named_parameters() if p.numel() == 0}
    assert empty
    assert {b.tensor for b in graph.blocks if b.numel == 0} == empty
    state = dict(model.named_parameters())
    assert graph.permute(state, graph.random_symmetry()).keys() == state.keys()


def test_an_empty_batch_is_traced_but_not_verified() -> None:
    model, x = Returns(lambda h, y: y), torch.randn(0, 4)
    graph = trace(model, x)
    assert len(graph.spaces) == 1
    assert any("nothing to compare" in note for note in graph.notes)


@pytest.mark.parametrize("inside", [False, True])
def test_nested_tensors_are_refused(inside: bool) -> None:
    parts = [torch.randn(3, 4), torch.randn(2, 4)]
    x = parts[0] if inside else torch.nested.nested_tensor(parts, layout=torch.jagged)

    def give(h: Tensor, y: Tensor) -> Tensor:
        return torch.nested.nested_tensor([h, h[:1]], layout=torch.jagged)

    with pytest.raises(TraceError, match="nested"):
        trace(Returns(give), x)


def test_complex_parameters_are_checked_in_double_precision() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))
            self.b = nn.Parameter(torch.randn(5, 6, dtype=torch.complex64))
            self.c = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            h = x.to(torch.complex64) @ self.a.T
            h = (h * h.abs()) @ self.b.T
            return (h * h.abs()) @ self.c.T

    model, x = Complex(), torch.randn(2, 4)
    graph = trace(model, x)
    assert [s.size for s in graph.spaces] == [6, 5]
    assert not graph.notes
    assert graph.verify(model, x) < 1e-9


class Noisy(nn.Module):
    """Packed projections, noise in training mode, and a cache in a static method."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.out = nn.Linear(4, 3 * 5), nn.Linear(5, 2)

    @staticmethod
    @cache
    def shift(size: int) -> Tensor:
        return torch.arange(size).flip(0) / size

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.packed(x).view(-1, 3, 5).unbind(1)
        y = a * b.tanh() + c
        if self.training:
            y = y * (torch.rand_like(y) < 0.5)
        return self.out(y) + self.shift(2)


@pytest.mark.parametrize("more", [(), (torch.ones(3, 4),)])
def test_further_passes_lose_nothing(more: tuple[Tensor, ...]) -> None:
    for _ in range(2):
        graph = trace(Noisy().eval(), torch.randn(2, 4), more_inputs=more)
        assert [s.size for s in graph.spaces] == [5]
        assert not graph.notes
