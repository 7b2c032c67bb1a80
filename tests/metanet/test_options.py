"""Attention, checkpointed rounds, routes, compilation and autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import GraphMetanet, blocked, native
from gmn_opt.metanet.native import operators
from gmn_opt.metanet.routes import MatrixRoutes, SlicedRoutes
from tests.metanet.test_metanet import metanet, per_channel
from tests.traced import largest_difference, random_tensors, traced

few = pytest.mark.parametrize(
    "name", ["mlp", "cnn", "resnet", "attention", "attention_gqa", "unet", "feature_grid"]
)


def gradients(
    net: GraphMetanet,
    graph: ParameterGraph,
    tensors: dict[str, Tensor],
    call: Callable[..., dict[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Of a nonlinear loss of ``call`` (the metanet itself), per parameter that has any."""
    outputs = (net if call is None else call)(graph, tensors).values()
    loss = torch.stack([(t.square() * (1 + t)).sum() for t in outputs]).sum()
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    named = zip((n for n, _ in net.named_parameters()), found, strict=True)
    return {n: g for n, g in named if g is not None and g.any()}


@few
def test_attention_is_equivariant_and_equals_the_edge_list(name: str) -> None:
    graph = traced(name)[1]
    tensors = random_tensors(graph, 2, features=2)
    found = {b: metanet(b, attention=2) for b in ("blocked", "sparse")}
    with torch.no_grad():
        outs = [net(graph, tensors) for net in found.values()]
    assert largest_difference(*outs) < 1e-12
    grads = [gradients(net, graph, tensors) for net in found.values()]
    assert largest_difference(*grads) < 1e-10
    one = {n: t[0] for n, t in tensors.items()}
    outside = found["blocked"](graph, per_channel(graph, one))
    inside = per_channel(graph, found["blocked"](graph, one))
    assert largest_difference(inside, outside) < 1e-10
    means = metanet()
    means.load_state_dict(found["blocked"].state_dict(), strict=False)
    with torch.no_grad():
        assert largest_difference(outs[0], means(graph, tensors)) > 1e-4


@few
def test_checkpointing_changes_nothing(name: str) -> None:
    graph = traced(name)[1]
    tensors = random_tensors(graph, features=2)
    kept, again = (gradients(metanet(checkpoint=c), graph, tensors) for c in (False, True))
    assert largest_difference(kept, again) < 1e-13


@few
def test_routes_as_matrices_equal_routes_by_slices(name: str) -> None:
    layout = blocked(traced(name)[1])
    sliced = SlicedRoutes(layout)
    matrix = MatrixRoutes(sliced, torch.zeros((), dtype=torch.float64))
    n, blocks = sum(layout.group_sizes), len(layout.blocks)
    d, e = (sum(size) for size in zip(*layout.sizes, strict=True))
    for route, size in (
        ("columns", n), ("rows", n), ("rows_of_blocks", blocks), ("from_rows", d),
        ("from_columns", e), ("block_mean", d), ("group_mean", n),
    ):  # fmt: skip
        given = torch.randn(2, 3, size, dtype=torch.float64)
        assert torch.allclose(getattr(sliced, route)(given), getattr(matrix, route)(given)), route
    if layout.links:
        along, against = torch.randn(2, 2, n, dtype=torch.float64)
        assert torch.allclose(sliced.links(along, against), matrix.links(along, against))


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention"])
def test_bfloat16_autocast_stays_close(name: str) -> None:
    graph = traced(name)[1]
    tensors = {n: t.float() for n, t in random_tensors(graph, 2, features=2).items()}
    net = metanet().float()
    with torch.no_grad():
        expected = net(graph, tensors)
        with torch.autocast("cpu", torch.bfloat16):
            found = net(graph, tensors)
    for name_, t in expected.items():
        assert float((found[name_].float() - t).norm() / t.norm()) < 0.05, name_


@pytest.mark.parametrize(("name", "built"), [("attention", True), ("mlp", False)])
def test_no_graph_breaks(name: str, built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """``fullgraph=True`` raises at a break; values and gradients of the traced program agree."""
    if built and native.kernel() is None:
        pytest.skip(f"native kernel: {native.status()}")
    calls: list[object] = []
    kernel = native.kernel()
    if kernel is not None:
        backward = type(kernel).backward

        def counted(*given: Any) -> Any:
            calls.append(given)
            return backward(*given)

        monkeypatch.setattr(type(kernel), "backward", counted)
    monkeypatch.setattr(operators, "kernel", lambda: kernel if built else None)
    graph = traced(name)[1]
    tensors = random_tensors(graph, 2, features=2)
    net = metanet()
    expected, grads = net(graph, tensors), gradients(net, graph, tensors)
    torch.compiler.reset()
    fast = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=False)
    assert largest_difference(expected, fast(graph, tensors)) < 1e-12
    calls.clear()
    assert largest_difference(grads, gradients(net, graph, tensors, fast)) < 1e-10
    assert bool(calls) == built


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="must divide"):
        GraphMetanet(1, 1, edge_hidden=8, attention=3)


@pytest.mark.gpu
@few
def test_same_on_a_gpu(name: str) -> None:
    graph = traced(name)[1]
    tensors = {n: t.float() for n, t in random_tensors(graph, 2, features=2).items()}
    net = metanet().float()
    expected = net(graph, tensors)
    net.cuda()
    found = net(graph, {n: t.cuda() for n, t in tensors.items()})
    assert largest_difference(expected, {n: t.cpu() for n, t in found.items()}) < 1e-4


def test_what_is_kept_serves_later_calls() -> None:
    """Constants made in inference mode or inside a transform are used outside of it as well."""
    graph = ParameterGraph.from_json(traced("mlp")[1].to_json())
    tensors = random_tensors(graph, 2, features=2)
    net = metanet()
    with torch.inference_mode():
        net(graph, tensors)
    inside = gradients(net, graph, tensors)
    fresh = ParameterGraph.from_json(graph.to_json())
    torch.func.vmap(lambda t: net(fresh, t))(tensors)
    torch.func.grad(lambda t: next(iter(net(fresh, t).values())).sum())(tensors)
    assert largest_difference(inside, gradients(net, fresh, tensors)) < 1e-12
