"""The metanet is equivariant, and its blocked execution equals the edge list."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import GraphMetanet, blocked
from tests.cases import Case
from tests.traced import PLAIN, largest_difference, permute, random_tensors, traced

cases = pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.name)
few = pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "attention", "unet", "lstm"])


def metanet(backend: Any = "blocked", **changes: Any) -> GraphMetanet:
    """A small one in float64, with nothing left at zero."""
    torch.manual_seed(1)
    sizes = {"hidden": 8, "edge_hidden": 4, "layers": 2, **changes}
    net = GraphMetanet(2, 3, backend=backend, **sizes).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


def per_channel(graph: ParameterGraph, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, permuted channel by channel."""
    channels = next(iter(tensors.values())).shape[-1]
    parts = [permute(graph, {n: t[..., i] for n, t in tensors.items()}) for i in range(channels)]
    return {n: torch.stack([part[n] for part in parts], -1) for n in tensors}


@cases
def test_equivariant(case: Case) -> None:
    graph = traced(case.name)[1]
    net = metanet()
    tensors = random_tensors(graph, features=2)
    outside = net(graph, per_channel(graph, tensors))
    inside = per_channel(graph, net(graph, tensors))
    assert largest_difference(inside, outside) < 1e-10


@cases
def test_blocked_equals_edge_list(case: Case) -> None:
    graph = traced(case.name)[1]
    tensors = random_tensors(graph, features=2)
    found: dict[str, tuple[dict[str, Tensor], list[Tensor]]] = {}
    for backend in ("blocked", "sparse"):
        net = metanet(backend)
        out = net(graph, tensors)
        loss = sum((t.square() * (1 + t)).sum() for t in out.values())
        grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        found[backend] = (out, [torch.zeros(()) if g is None else g for g in grads])
    assert largest_difference(found["sparse"][0], found["blocked"][0]) < 1e-12
    names = [n for n, _ in metanet().named_parameters()]
    gradients = [dict(zip(names, found[b][1], strict=True)) for b in ("sparse", "blocked")]
    scale = max(float(g.norm()) for g in gradients[0].values())
    for name, g in gradients[0].items():
        assert float((g - gradients[1][name]).norm()) < 1e-11 * scale, name


@few
def test_blocked_equals_edge_list_in_float32(name: str) -> None:
    graph = traced(name)[1]
    tensors = {n: t.float() for n, t in random_tensors(graph, features=2).items()}
    with torch.no_grad():
        outs = [metanet(b).float()(graph, tensors) for b in ("sparse", "blocked")]
    assert largest_difference(*outs) < 1e-5


@few
def test_leading_dimensions_batch_networks(name: str) -> None:
    graph = traced(name)[1]
    tensors = random_tensors(graph, 2, 3, features=2)
    net = metanet()
    together = net(graph, tensors)
    for i in range(2):
        for j in range(3):
            alone = net(graph, {n: t[i, j] for n, t in tensors.items()})
            picked = {n: t[i, j] for n, t in together.items()}
            assert largest_difference(alone, picked) < 1e-12


def test_information_crosses_the_network() -> None:
    """With enough rounds, the last layer's output depends on the first layer's weights."""
    graph = traced("mlp")[1]
    tensors = random_tensors(graph, features=2)
    names = list(tensors)
    net = metanet(layers=4)
    tensors[names[0]].requires_grad_()
    grad = torch.autograd.grad(net(graph, tensors)[names[-1]].sum(), tensors[names[0]])[0]
    assert float(grad.abs().max()) > 1e-8


def test_output_is_zero_at_first() -> None:
    graph = traced("mlp")[1]
    net = GraphMetanet(2, 3).double()
    out = net(graph, random_tensors(graph, features=2))
    assert all(not t.any() for t in out.values())


def test_bad_input() -> None:
    graph = traced("mlp")[1]
    net = metanet()
    with pytest.raises(ValueError, match="expected shape"):
        net(graph, random_tensors(graph, features=5))
    with pytest.raises(ValueError, match="backend"):
        GraphMetanet(2, 3, backend="dense")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        GraphMetanet(0, 3)
    with pytest.raises(ValueError, match="blocks"):
        net.states(graph, torch.zeros(2, 0))
    edges = torch.zeros(2, sum(blocked(graph).edge_counts)).double()
    with pytest.raises(ValueError, match="inputs per block"):
        metanet(block_inputs=2).states(graph, edges)


def test_states_want_the_metanets_dtype_and_device() -> None:
    graph = traced("mlp")[1]
    layout = blocked(graph)
    metanet = GraphMetanet(2, 0, 8, 4, 1, block_inputs=3)
    edges = torch.zeros(2, sum(layout.edge_counts))
    inputs = torch.zeros(len(layout.blocks), 3)
    assert metanet.states(graph, edges, inputs).graph.shape == (8,)
    with pytest.raises(ValueError, match=r"edge features: expected torch.float32.*torch.float64"):
        metanet.states(graph, edges.double(), inputs)
    with pytest.raises(ValueError, match=r"block_inputs: expected.*received torch.int64 on cpu"):
        metanet.states(graph, edges, inputs.long())
    with pytest.raises(ValueError, match=r"edge features: .* on meta"):
        metanet.states(graph, edges.to("meta"), inputs.to("meta"))
