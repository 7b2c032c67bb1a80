"""Checkpointed rounds, compilation and autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
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


def _mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 2)
    )


def _cnn(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2),
    )  # fmt: skip


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """A stream that is written twice."""
        x = self.first(x)
        out: Tensor = self.last(x + self.inner(x))
        return out


@pytest.mark.parametrize("backend", ["blocked", "sparse"])
@pytest.mark.parametrize(
    ("build", "shape"), [(_mlp, (2, 3)), (_cnn, (2, 1, 5, 5)), (_Residual, (2, 3))]
)
def test_without_sizes_every_neuron_twice_is_the_same(
    build: Callable[[int], nn.Module], shape: tuple[int, ...], backend: str
) -> None:
    graphs = [trace(build(width), torch.zeros(shape)) for width in (4, 8)]
    narrow = random_tensors(graphs[0], features=2)
    wide = {}
    for name, tensor in narrow.items():
        for dim, size in enumerate(graphs[1].shapes[name]):
            if size != tensor.shape[dim]:
                tensor = tensor.repeat_interleave(2, dim)
        wide[name] = tensor
    apart = []
    for sizes in (False, True):
        net = metanet(backend, sizes=sizes)
        with torch.no_grad():
            found = [net.states_from(g, t) for g, t in zip(graphs, (narrow, wide), strict=True)]
        apart.append(float((found[0].graph - found[1].graph).abs().max()))
        if not sizes:
            torch.testing.assert_close(found[0].blocks, found[1].blocks, rtol=0, atol=1e-12)
    assert apart[0] < 1e-12 < 1e-4 < apart[1]
