"""Readouts are invariant, serve every architecture, and refuse what cannot be read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import GraphMetanet, GraphReadout, Probes, blocked
from tests.cases import Case
from tests.traced import PLAIN, permute, random_tensors, traced

cases = pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.name)
few = pytest.mark.parametrize("name", ["mlp", "cnn", "attention", "unet"])


def readout(outputs: int = 3, backend: Any = "blocked", **changes: Any) -> GraphReadout:
    """A small one in float64."""
    torch.manual_seed(1)
    net = GraphMetanet(1, 0, hidden=8, edge_hidden=4, layers=2, backend=backend)
    made = GraphReadout(net, outputs, **changes).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


def with_channel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.unsqueeze(-1) for n, t in tensors.items()}


@cases
def test_invariant(case: Case) -> None:
    graph = traced(case.name)[1]
    tensors = random_tensors(graph)
    moved = permute(graph, tensors)
    net = readout()
    with torch.no_grad():
        before, after = (net(graph, with_channel(t)) for t in (tensors, moved))
        other = net(graph, with_channel(random_tensors(graph, seed=5)))
    assert before.shape == (3,)
    assert float((before - after).norm() / before.norm()) < 1e-10
    assert float((before - other).norm() / before.norm()) > 1e-4


@few
def test_leading_dimensions_batch_networks(name: str) -> None:
    graph = traced(name)[1]
    tensors = random_tensors(graph, 2, 3, features=1)
    net = readout(hidden=5)
    together, seen = net(graph, tensors), net.embed(graph, tensors)
    assert together.shape == (2, 3, 3)
    assert seen.shape == (2, 3, 5)
    for i in range(2):
        for j in range(3):
            alone = net(graph, {n: t[i, j] for n, t in tensors.items()})
            assert torch.allclose(alone, together[i, j], rtol=1e-12, atol=1e-12)


@few
def test_the_edge_list_says_the_same(name: str) -> None:
    graph = traced(name)[1]
    tensors = random_tensors(graph, 2, features=1)
    a, b = (readout(backend=how)(graph, tensors) for how in ("blocked", "sparse"))
    assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_last_round_makes_no_edge_states() -> None:
    graph = traced("mlp")[1]
    net = readout().metanet
    flat = net.edge_features(graph, random_tensors(graph, features=1))
    kept, spared = net.states(graph, flat), net.states(graph, flat, keep_edges=False)
    for part in ("nodes", "blocks", "graph"):
        assert torch.equal(getattr(kept, part), getattr(spared, part))
    assert not torch.equal(kept.edges, spared.edges)


def test_every_parameter_is_trained() -> None:
    """No gradient is missing, but for the last round's share in edge states that nobody reads."""
    graph = traced("residual_mlp")[1]
    net = readout()
    net(graph, random_tensors(graph, 4, features=1)).square().sum().backward()
    idle = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert all("kernel" in n for n in idle), idle


def test_standardized_over_the_batch() -> None:
    graph = traced("mlp")[1]
    net = readout(standardize=True)
    tensors = random_tensors(graph, 16, features=1)
    assert net(graph, tensors).shape == (16, 3)
    net.eval()
    one = net(graph, {n: t[3] for n, t in tensors.items()})
    assert torch.allclose(one, net(graph, tensors)[3])


def test_it_learns_a_property_of_networks() -> None:
    """Regression of the log norm of the first layer, on networks never seen."""
    graph = traced("mlp")[1]
    torch.manual_seed(0)
    net = GraphReadout(GraphMetanet(1, 0, hidden=16, edge_hidden=4, layers=1), 1)
    with torch.no_grad():
        net.metanet.edge_encoder.weight.mul_(3)

    def batch(seed: int) -> tuple[dict[str, Tensor], Tensor]:
        tensors = {n: t.float() for n, t in random_tensors(graph, 64, seed=seed).items()}
        size = torch.rand(64, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        first = next(iter(tensors))
        tensors[first] = tensors[first] * size.exp()[:, None, None]
        return with_channel(tensors), size.unsqueeze(-1)

    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(100):
        tensors, target = batch(step)
        loss = nn.functional.mse_loss(net(graph, tensors), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    tensors, target = batch(1000)
    with torch.no_grad():
        error = nn.functional.mse_loss(net(graph, tensors), target)
    assert float(error / target.var()) < 0.2


@pytest.mark.parametrize("scale", [None, "auto"])
def test_compiles_without_graph_breaks(scale: Any) -> None:
    graph = traced("cnn")[1]
    tensors = random_tensors(graph, 2, features=1)
    net = GraphReadout(GraphMetanet(1, 0, scale=scale), 3).double()
    expected = net(graph, tensors)
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
    assert torch.allclose(compiled(graph, tensors), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"backend": "sparse"}, {"scale": "auto"}])
def test_on_a_gpu(changes: dict[str, Any]) -> None:
    """Readouts, mixed batches and probes give there what they give on a CPU."""
    names = ("mlp", "cnn", "mlp")
    mixed = [(traced(n)[1], random_tensors(traced(n)[1], features=1)) for n in names]
    net = GraphReadout(GraphMetanet(1, 0, **changes), 3).double()
    expected = net.many(mixed)
    there = [(graph, {n: t.cuda() for n, t in tensors.items()}) for graph, tensors in mixed]
    assert torch.allclose(net.cuda().many(there).cpu(), expected, rtol=1e-9, atol=1e-9)
    model, graph = traced("cnn")
    probes = Probes(model, graph, torch.zeros(1, 3, 8, 8), 2).double()
    weights = {n: t.squeeze(-1) for n, t in mixed[1][1].items()}
    seen = probes(weights)
    moved = probes.cuda()({n: t.cuda() for n, t in weights.items()})
    assert torch.allclose(moved.cpu(), seen, rtol=1e-9, atol=1e-9)


def test_bad_input() -> None:
    graph = traced("mlp")[1]
    net = readout()
    tensors = random_tensors(graph, features=1)
    name, *_, last = tensors
    with pytest.raises(ValueError, match="missing"):
        net(graph, {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(ValueError, match="expected shape"):
        net(graph, random_tensors(graph, features=2))
    with pytest.raises(ValueError, match=r"expected torch.float64 on cpu.*received torch.float32"):
        net(graph, {**tensors, name: tensors[name].float()})
    with pytest.raises(ValueError, match=r"received torch.float64 on meta"):
        net(graph, {**tensors, name: tensors[name].to("meta")})
    with pytest.raises(ValueError, match=r"leading dimensions \[2\]"):
        net(graph, {**random_tensors(graph, 2, features=1), last: tensors[last]})
    with pytest.raises(ValueError, match="node, for this graph"):
        net(graph, tensors, torch.zeros(1))
    empty = replace(graph, blocks=(), links=(), buffer_blocks=(), shapes={}, fixed_reasons={})
    assert isinstance(empty, ParameterGraph)
    with pytest.raises(ValueError, match="at least one parameter"):
        net(empty, {})
    with pytest.raises(ValueError, match="at least one output"):
        GraphReadout(GraphMetanet(1, 0), 0)
    with pytest.raises(ValueError, match="block inputs"):
        GraphReadout(GraphMetanet(1, 0, block_inputs=2), 1)
    assert sum(blocked(graph).edge_counts)
