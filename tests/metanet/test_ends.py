"""The way between nodes and the ends of blocks: native, and on torch's operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gmn_opt import ParameterGraph
from gmn_opt.metanet import BlockedGraph, blocked, native
from gmn_opt.metanet.ends import Ends, NativeEnds, RoutedEnds
from gmn_opt.metanet.native import operators
from gmn_opt.metanet.routes import SlicedRoutes
from tests.cases import Case
from tests.metanet.test_metanet import metanet
from tests.traced import PLAIN, random_tensors, traced

BUILT = pytest.mark.skipif(native.kernel() is None, reason=f"native kernel: {native.status()}")
Tensors = list[Tensor]


def both(layout: BlockedGraph, dtype: torch.dtype = torch.float64) -> tuple[NativeEnds, RoutedEnds]:
    return NativeEnds.of(layout, dtype), RoutedEnds(SlicedRoutes(layout))


def given(layout: BlockedGraph, *lead: int, f: int, dtype: torch.dtype = torch.float64) -> Tensors:
    random = torch.Generator().manual_seed(0)
    nodes, blocks = sum(layout.group_sizes), len(layout.blocks)
    d, e = (sum(size) for size in zip(*layout.sizes, strict=True))
    shapes = ((nodes, 2 * f), (blocks, f), (f, d), (f, e))
    return [torch.randn(*lead, *s, generator=random, dtype=dtype) for s in shapes]


def outcome(ends: Ends, given: Tensors) -> Tensors:
    """Outputs of both ways, and gradients of a function that is not linear in them."""
    inputs = [t.clone().requires_grad_() for t in given]
    pairs, per_block, dst, src = inputs
    out = [*ends.spread(pairs, per_block), *ends.collect(dst, src)]
    loss = torch.stack([t.sin().sum() for t in out]).sum()
    return [*(t.detach() for t in out), *torch.autograd.grad(loss, inputs)]


@BUILT
@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_native_equals_routes(case: Case) -> None:
    layout = blocked(traced(case.name)[1])
    if not layout.sizes:
        pytest.skip("no parameters")
    tensors = given(layout, 2, f=3)
    compiled, routed = (outcome(ends, tensors) for ends in both(layout))
    for a, b in zip(compiled, routed, strict=True):
        assert float((a - b).norm()) <= 1e-13 * (1 + float(b.norm()))


@BUILT
@pytest.mark.parametrize("f", [1, 4, 8, 16, 32, 33])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_numbers_of_channels_and_networks(f: int, lead: tuple[int, ...]) -> None:
    layout = blocked(traced("cnn")[1])
    tensors = given(layout, *lead, f=f, dtype=torch.float32)
    compiled, routed = (outcome(ends, tensors) for ends in both(layout, torch.float32))
    for a, b in zip(compiled, routed, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@BUILT
def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = blocked(traced("attention")[1])
    native_ends = both(layout)[0]
    tensors = given(layout, 7, f=4)
    alone = outcome(native_ends, tensors)
    monkeypatch.setattr("gmn_opt.metanet.native.route_calls.PART", 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = outcome(native_ends, tensors)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@BUILT
def test_derivatives_of_both_orders() -> None:
    layout = blocked(traced("attention")[1])
    ends = both(layout)[0]
    pairs, per_block, dst, src = (t.requires_grad_() for t in given(layout, 1, f=1))

    def spread(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([t.sin().flatten() for t in ends.spread(a, b)])

    def collect(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([t.sin().flatten() for t in ends.collect(a, b)])

    for function, inputs in ((spread, (pairs, per_block)), (collect, (dst, src))):
        assert gradcheck(function, inputs, fast_mode=True, check_forward_ad=True)
        assert gradgradcheck(function, inputs, fast_mode=True)
    for way, inputs in ((ends.spread, (pairs, per_block)), (ends.collect, (dst, src))):
        for used in range(2):
            assert gradgradcheck(lambda *a, w=way, i=used: w(*a)[i].sin(), inputs, fast_mode=True)


@pytest.mark.parametrize("state", ["nodes", "blocks", "graph"])
def test_second_derivatives_of_single_states(state: str) -> None:
    graph = traced("cnn")[1]
    tensors = {n: t.requires_grad_() for n, t in random_tensors(graph, features=2).items()}
    out = getattr(metanet().states_from(graph, tensors), state)
    first = torch.autograd.grad(out.square().sum(), list(tensors.values()), create_graph=True)
    torch.stack([g.square().sum() for g in first]).sum().backward()
    assert all(bool(t.grad.isfinite().all()) for t in tensors.values() if t.grad is not None)
    assert any(t.grad is not None for t in tensors.values())


@BUILT
def test_what_suits_the_circumstances() -> None:
    layout = blocked(traced("cnn")[1])
    like = torch.zeros(2, 3)
    assert isinstance(layout.ends.get(like), NativeEnds)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(layout.ends.get(like), RoutedEnds)
    seen: list[Ends] = []

    def inside(x: Tensor) -> Tensor:
        seen.append(layout.ends.get(x))
        return x

    torch.func.vmap(inside)(like)
    assert isinstance(seen[0], RoutedEnds)
    assert isinstance(layout.ends.get(like.half()), RoutedEnds)


@BUILT
@pytest.mark.parametrize("used", range(4))
def test_gradients_of_one_output(used: int) -> None:
    layout = blocked(traced("cnn")[1])
    tensors = given(layout, 2, f=3)
    found = []
    for ends in both(layout):
        inputs = [t.clone().requires_grad_() for t in tensors]
        out = [*ends.spread(*inputs[:2]), *ends.collect(*inputs[2:])]
        grads = torch.autograd.grad(out[used].sin().sum(), inputs, allow_unused=True)
        found.append(
            [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, grads, strict=True)]
        )
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


@BUILT
def test_operators_for_the_compiler() -> None:
    layout = blocked(traced("cnn")[1])
    ends = both(layout)[0]
    pairs, per_block, dst, src = (t.requires_grad_() for t in given(layout, 2, f=3))
    for way, there, back, inputs in (
        ("spread", ends.out, ends.out_back, (pairs, per_block)),
        ("collect", ends.back, ends.back_back, (dst, src)),
    ):
        numbers = (there.numbers, there.values, back.numbers, back.values)
        torch.library.opcheck(operators.route, (way, *numbers, list(ends.sizes), *inputs))


def test_a_new_graph_in_a_compiled_program() -> None:
    """The compiler stops at what is kept per graph; a full program says what to do."""
    known = traced("mlp")[1]
    net = metanet()
    tensors = random_tensors(known, 2, features=2)
    expected = net(known, tensors)
    torch.compiler.reset()
    whole = torch.compile(net, backend="eager", fullgraph=True)
    fresh = ParameterGraph.from_json(known.to_json())
    with pytest.raises(RuntimeError, match="Call it once on"):
        whole(fresh, tensors)
    fresh = ParameterGraph.from_json(known.to_json())
    with torch.no_grad():  # else the compiler warns of itself at every break
        found = torch.compile(net, backend="eager")(fresh, tensors)
    assert all(torch.equal(found[n], t) for n, t in expected.items())
