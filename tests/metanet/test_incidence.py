"""Nodes to the ends of blocks and back: every backend against slices, block by block."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile

from gmn_opt import GraphMetanet, ParameterGraph
from gmn_opt.metanet import BlockedGraph, blocked
from gmn_opt.metanet.backends import native, plain
from gmn_opt.metanet.execution import Backend
from gmn_opt.metanet.incidence import Incidence, Map, incidence_of
from gmn_opt.metanet.layout import Endpoint
from tests.cases import Case
from tests.metanet.backends import BACKENDS, BUILT, every
from tests.metanet.test_metanet import metanet
from tests.traced import PLAIN, random_tensors, traced

Tensors = list[Tensor]
FLOAT64 = torch.float64


def incidence(layout: BlockedGraph, dtype: torch.dtype = FLOAT64) -> Incidence:
    return incidence_of(layout.graph, torch.zeros(0, dtype=dtype))


# ------------------------------------------------------------------------------- slow and obvious


def read(end: Endpoint, nodes: Tensor) -> Tensor:
    """Values of the nodes ``[..., N]`` as a block sees them, ``[..., size]``."""
    seen, at = nodes.unflatten(-1, end.sizes or (1,)), dict(end.at)
    for position in reversed(range(len(end.sizes))):
        dim = nodes.dim() - 1 + position
        if position in at:
            seen = seen.select(dim, at[position])
        elif position not in end.kept:
            seen = seen.mean(dim)
    return seen.reshape(*nodes.shape[:-1], end.size)


def write(end: Endpoint, seen: Tensor) -> Tensor:
    """``[..., size]`` copied to the nodes ``[..., N]``; zero where the block is not."""
    shape = [n if i in end.kept else 1 for i, n in enumerate(end.sizes)]
    full = seen.new_zeros((*seen.shape[:-1], *end.sizes))
    at = dict(end.at)
    where = (..., *(slice(at[i], at[i] + 1) if i in at else slice(None) for i in range(len(shape))))
    full[where] = seen.reshape((*seen.shape[:-1], *shape))
    return full.reshape((*seen.shape[:-1], prod(end.sizes)))


def sliced_gather(layout: BlockedGraph, pairs: Tensor, per_block: Tensor) -> tuple[Tensor, Tensor]:
    as_dst, as_src = (t.split(layout.group_sizes, -1) for t in pairs.mT.chunk(2, -2))
    rows = [
        read(b.dst, as_dst[b.dst.group]) + per_block[..., i, :].unsqueeze(-1)
        for i, b in enumerate(layout.blocks)
    ]
    columns = [
        read(b.src, as_src[b.src.group]).repeat_interleave(prod(b.kernel), -1)
        for b in layout.blocks
    ]
    return torch.cat(rows, -1), torch.cat(columns, -1)


def sliced_pool(layout: BlockedGraph, dst: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
    parts = layout.ends(dst, src)
    rows = [part for part, _ in parts]
    pairs = zip(layout.blocks, parts, strict=True)
    columns = [part.unflatten(-1, (-1, prod(b.kernel))).mean(-1) for b, (_, part) in pairs]
    found = []
    for ends, values in (
        ([b.dst for b in layout.blocks], rows),
        ([b.src for b in layout.blocks], columns),
    ):
        sums = [dst.new_zeros(*dst.shape[:-1], n) for n in layout.group_sizes]
        counts = [dst.new_zeros(n) for n in layout.group_sizes]
        for end, value in zip(ends, values, strict=True):
            sums[end.group] += write(end, value)
            counts[end.group] += write(end, value.new_ones(end.size))
        found.append(torch.cat(sums, -1) / torch.cat(counts).clamp_min(1))
    to_block = torch.stack([part.mean(-1) for part in rows], -1)
    return torch.cat(found, -2).mT, to_block.mT


def given(layout: BlockedGraph, *lead: int, f: int, dtype: torch.dtype = FLOAT64) -> Tensors:
    random = torch.Generator().manual_seed(0)
    nodes, blocks, d, e = incidence(layout).counts
    shapes = ((nodes, 2 * f), (blocks, f), (f, d), (f, e))
    return [torch.randn(*lead, *s, generator=random, dtype=dtype) for s in shapes]


def outcome(backend: Backend, maps: Incidence, given: Tensors) -> Tensors:
    """Outputs of both ways, and gradients of a function that is not linear in them."""
    inputs = [t.clone().requires_grad_() for t in given]
    pairs, per_block, dst, src = inputs
    out = [*backend.gather(maps, pairs, per_block), *backend.pool(maps, dst, src)]
    loss = torch.stack([t.sin().sum() for t in out]).sum()
    return [*(t.detach() for t in out), *torch.autograd.grad(loss, inputs)]


@every
@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_equals_slices(case: Case, backend: str) -> None:
    layout = blocked(traced(case.name)[1])
    if not layout.sizes:
        pytest.skip("no parameters")
    pairs, per_block, dst, src = given(layout, 2, f=3)
    run, maps = BACKENDS[backend], incidence(layout)
    found = [*run.gather(maps, pairs, per_block), *run.pool(maps, dst, src)]
    expected = [*sliced_gather(layout, pairs, per_block), *sliced_pool(layout, dst, src)]
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm()) <= 1e-13 * (1 + float(b.norm()))


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_links_equal_slices(case: Case) -> None:
    """Every node gets the mean over its links of the means over those that agree with it."""
    layout = blocked(traced(case.name)[1])
    if not layout.links:
        pytest.skip("no links")
    maps = incidence(layout)
    along, against = torch.randn(2, 2, maps.counts[0], dtype=FLOAT64)
    sums = [torch.zeros(2, n, dtype=FLOAT64) for n in layout.group_sizes]
    counts = [0.0] * len(sums)
    for link in layout.links:
        for start, end, values in ((link.src, link.dst, along), (link.dst, link.src, against)):
            # `kept` is in the same order on both sides, which need not be that of the group
            seen = read(start, values.split(layout.group_sizes, -1)[start.group])
            inner = [start.sizes[i] for i in sorted(start.kept)]
            turned = [sorted(start.kept).index(i) for i in start.kept]
            back = [end.kept.index(i) for i in sorted(end.kept)]
            order = [turned[i] for i in back]
            moved = seen.unflatten(-1, inner or (1,))
            if order:
                moved = moved.permute(0, *(i + 1 for i in order))
            sums[end.group] += write(end, moved.flatten(1))
            counts[end.group] += 1
    expected = torch.cat([s / max(c, 1) for s, c in zip(sums, counts, strict=True)], -1)
    found = maps.over_links(along.unsqueeze(-1), against.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    nodes = torch.randn(2, maps.counts[0], 3, dtype=FLOAT64)
    means = torch.stack([g.mean(-2) for g in nodes.split(layout.group_sizes, -2)]).mean(0)
    assert torch.allclose(maps.node_mean(nodes), means, rtol=1e-12, atol=1e-12)


@every
@pytest.mark.parametrize("f", [1, 4, 8, 16, 32, 33])
@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_numbers_of_channels_and_networks(f: int, lead: tuple[int, ...], backend: str) -> None:
    layout = blocked(traced("cnn")[1])
    tensors = given(layout, *lead, f=f, dtype=torch.float32)
    maps = incidence(layout, torch.float32)
    found, expected = (outcome(b, maps, tensors) for b in (BACKENDS[backend], plain))
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@BUILT
def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = blocked(traced("attention")[1])
    tensors, maps = given(layout, 7, f=4), incidence(layout)
    alone = outcome(native, maps, tensors)
    monkeypatch.setattr("gmn_opt.metanet.native.incidence_calls.PART", 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = outcome(native, maps, tensors)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@every
def test_derivatives_of_both_orders(backend: str) -> None:
    layout = blocked(traced("attention")[1])
    run, maps = BACKENDS[backend], incidence(layout)
    pairs, per_block, dst, src = (t.requires_grad_() for t in given(layout, 1, f=1))

    def gather(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([t.sin().flatten() for t in run.gather(maps, a, b)])

    def pool(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([t.sin().flatten() for t in run.pool(maps, a, b)])

    for function, inputs in ((gather, (pairs, per_block)), (pool, (dst, src))):
        assert gradcheck(function, inputs, fast_mode=True)
        assert gradgradcheck(function, inputs, fast_mode=True)
    for way, inputs in ((run.gather, (pairs, per_block)), (run.pool, (dst, src))):
        for used in range(2):
            assert gradgradcheck(
                lambda *a, w=way, i=used: w(maps, *a)[i].sin(), inputs, fast_mode=True
            )


@pytest.mark.parametrize("state", ["nodes", "blocks", "graph"])
def test_second_derivatives_of_single_states(state: str) -> None:
    graph = traced("cnn")[1]
    tensors = {n: t.requires_grad_() for n, t in random_tensors(graph, features=2).items()}
    out = getattr(metanet().states_from(graph, tensors), state)
    first = torch.autograd.grad(out.square().sum(), list(tensors.values()), create_graph=True)
    torch.stack([g.square().sum() for g in first]).sum().backward()
    assert all(bool(t.grad.isfinite().all()) for t in tensors.values() if t.grad is not None)
    assert any(t.grad is not None for t in tensors.values())


@every
@pytest.mark.parametrize("used", range(4))
def test_gradients_of_one_output(used: int, backend: str) -> None:
    layout = blocked(traced("cnn")[1])
    tensors, maps = given(layout, 2, f=3), incidence(layout)
    found = []
    for way in (BACKENDS[backend], plain):
        inputs = [t.clone().requires_grad_() for t in tensors]
        out = [*way.gather(maps, *inputs[:2]), *way.pool(maps, *inputs[2:])]
        grads = torch.autograd.grad(out[used].sin().sum(), inputs, allow_unused=True)
        found.append(
            [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, grads, strict=True)]
        )
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


@every
def test_without_values_of_blocks(backend: str) -> None:
    layout = blocked(traced("cnn")[1])
    pairs, per_block, _, _ = given(layout, 2, f=3)
    maps, run = incidence(layout), BACKENDS[backend]
    without, zeros = run.gather(maps, pairs), run.gather(maps, pairs, torch.zeros_like(per_block))
    assert all(torch.equal(a, b) for a, b in zip(without, zeros, strict=True))


@BUILT
def test_the_operator_for_the_compiler() -> None:
    layout = blocked(traced("cnn")[1])
    maps = incidence(layout)
    tensors = [t.requires_grad_() for t in given(layout, 2, f=3)]
    for way, packed, inputs in (
        ("gather", maps.gathering, tensors[:2]),
        ("pool", maps.pooling, tensors[2:]),
    ):
        numbers = [t for m in packed for t in (m.numbers, m.values)]
        arguments = (way, *numbers, list(maps.counts), *inputs)
        torch.library.opcheck(torch.ops.gmn_opt.along.default, arguments)


def test_maps_of_graphs_side_by_side() -> None:
    parts = [incidence(blocked(traced(name)[1])) for name in ("resnet", "attention")]
    joint = Incidence.union(parts)
    nodes = [torch.randn(p.counts[0], 2, dtype=FLOAT64) for p in parts]
    alone = [p.over_links(x, 2 * x) for p, x in zip(parts, nodes, strict=True)]
    together = torch.cat(nodes)
    assert torch.allclose(joint.over_links(together, 2 * together), torch.cat(alone))
    alone = [p.destinations(x) for p, x in zip(parts, nodes, strict=True)]
    assert torch.allclose(joint.destinations(together), torch.cat(alone))


def numbers(maps: Incidence) -> int:
    """Elements of all tensors that are kept."""
    found = 0
    for value in vars(maps).values():
        parts = value if isinstance(value, tuple) else (value,)
        for part in parts:
            if isinstance(part, Map):
                found += part.row.numel() + part.column.numel() + part.value.numel()
            elif not isinstance(part, tuple):
                found += part.numbers.numel() + part.values.numel()
    return found


ODD = [(1, 3, 128, 128), (100_000, 32), (7, 1, 1, 1), ()]


@pytest.mark.parametrize("backend", ["blocked", "sparse"])
@pytest.mark.parametrize("shape", ODD, ids=str)
def test_memory_grows_with_the_parameters(shape: tuple[int, ...], backend: Any) -> None:
    """No matrix of nodes by ends, for a tensor of any shape: neither kept nor made on the way."""
    graph = ParameterGraph.islands({"image": shape})
    net = GraphMetanet(1, 1, hidden=4, edge_hidden=2, layers=1, backend=backend)
    tensors = {"image": torch.randn(*shape, 1)}
    activities = [ProfilerActivity.CPU]
    with torch.no_grad(), profile(activities=activities, profile_memory=True) as prof:
        out = net(graph, tensors)
    assert out["image"].shape == (*shape, 1)
    maps = incidence(blocked(graph), torch.float32)
    size = sum(maps.counts) + prod(shape)
    assert numbers(maps) <= 100 + 40 * size
    largest = max(
        e.nbytes() for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"
    )
    assert largest <= 10_000 + 100 * size


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_memory_of_the_case_models(case: Case) -> None:
    layout = blocked(traced(case.name)[1])
    maps = incidence(layout)
    assert numbers(maps) <= 100 + 40 * (sum(maps.counts) + sum(layout.edge_counts))
