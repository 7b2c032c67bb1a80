"""Checkpointed rounds, compilation and autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import GraphMetanet, native
from tests.metanet.test_metanet import metanet
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
def test_checkpointing_changes_nothing(name: str) -> None:
    graph = traced(name)[1]
    tensors = random_tensors(graph, features=2)
    kept, again = (gradients(metanet(checkpoint=c), graph, tensors) for c in (False, True))
    assert largest_difference(kept, again) < 1e-13


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
        edges = type(kernel.edges)
        backward = edges.backward

        def counted(*given: Any) -> Any:
            calls.append(given)
            return backward(*given)

        monkeypatch.setattr(edges, "backward", counted)
    monkeypatch.setattr(native, "kernel", lambda: kernel if built else None)
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
