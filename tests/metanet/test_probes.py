"""Probe features: right activations, equivariant, learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import GraphMetanet, GraphReadout, Probes, blocked
from tests.cases import BY_NAME
from tests.traced import largest_difference, permute, random_tensors, traced

few = pytest.mark.parametrize(
    "name",
    ["mlp", "siren", "cnn", "resnet", "unet", "attention", "transposed_conv", "grouped_conv"],
)


def probes(name: str, count: int = 3) -> tuple[ParameterGraph, Probes]:
    model, graph = traced(name)
    _, inputs = BY_NAME[name].make()
    torch.manual_seed(1)
    return graph, Probes(model, graph, inputs, count).double()


def test_activations_are_those_of_the_network() -> None:
    model, graph = traced("mlp")
    _, made = probes("mlp")
    (x,) = made.inputs
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    found = made(parameters)
    assert found.shape == (sum(blocked(graph).group_sizes), 3)
    parts = dict(
        zip((g.name for g in graph.groups), found.split(blocked(graph).group_sizes), strict=True)
    )
    assert isinstance(model, nn.Sequential)
    first, second, last = (m for m in model if isinstance(m, nn.Linear))
    act = next(m for m in model if not isinstance(m, nn.Linear))
    expected = [x, first(x), second(act(first(x))), last(act(second(act(first(x)))))]
    assert len(made.covered) == 4
    seen = [parts[name] for name in made.covered]
    for values in expected:
        assert any(
            v.shape == values.T.shape and torch.allclose(v, torch.asinh(values.T)) for v in seen
        )
    others = [v for name, v in parts.items() if name not in made.covered]
    assert others
    assert not any(v.any() for v in others)


@few
def test_covers_the_hidden_layers(name: str) -> None:
    graph, made = probes(name)
    roles = {g.name: g.role for g in graph.groups}
    assert any(roles[n] == "hidden" for n in made.covered)
    weights = {b.dst for b in graph.blocks if b.kind in ("linear", "conv")}
    missed = [graph.groups[g].name for g in weights if graph.groups[g].name not in made.covered]
    assert len(missed) <= len(weights) // 2, missed


@few
def test_equivariant(name: str) -> None:
    """A metanet with probe features is equivariant, and reads them."""
    graph, made = probes(name)
    torch.manual_seed(2)
    net = GraphMetanet(1, 1, hidden=8, edge_hidden=4, layers=1, node_inputs=3).double()
    assert net.readout is not None
    nn.init.normal_(net.readout.weight)

    def run(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        out = net(graph, {n: t.unsqueeze(-1) for n, t in tensors.items()}, made(tensors))
        return {n: t.squeeze(-1).detach() for n, t in out.items()}

    tensors = {n: 0.5 * t for n, t in random_tensors(graph).items()}
    inside, outside = permute(graph, run(tensors)), run(permute(graph, tensors))
    assert largest_difference(inside, outside) < 1e-10
    with torch.no_grad():
        made.inputs[0].add_(0.1)
    assert largest_difference(inside, permute(graph, run(tensors))) > 1e-8


def test_batches() -> None:
    graph, made = probes("cnn")
    tensors = random_tensors(graph, 2, 3)
    together = made(tensors)
    assert together.shape[:2] == (2, 3)
    alone = made({n: t[1, 2] for n, t in tensors.items()})
    assert torch.allclose(alone, together[1, 2])


def test_probes_are_learned() -> None:
    graph, made = probes("siren")
    readout = GraphReadout(GraphMetanet(1, 0, node_inputs=3), 2).double()
    tensors = random_tensors(graph, 4)
    tensors[next(iter(tensors))].requires_grad_()
    out = readout(graph, {n: t.unsqueeze(-1) for n, t in tensors.items()}, made(tensors))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())
    assert sum(p.numel() for p in made.parameters()) == 3 * 2  # none of the network's own
    assert next(iter(tensors.values())).grad is not None


def test_bad_input() -> None:
    model, graph = traced("mlp")
    with pytest.raises(ValueError, match="Token ids"):
        Probes(model, graph, torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="does not have"):
        Probes(nn.Linear(4, 3), graph, torch.zeros(2, 4))
    made = Probes(model, graph, torch.zeros(2, 4), 2)
    with pytest.raises(ValueError, match="expected torch.float32"):
        made(random_tensors(graph))
    net = GraphMetanet(1, 1, node_inputs=2).double()
    tensors = random_tensors(graph, features=1)
    with pytest.raises(ValueError, match="2 inputs per node, for this graph.*received None"):
        net(graph, tensors)
    with pytest.raises(ValueError, match=r"received \[3, 2\]"):
        net(graph, tensors, torch.zeros(3, 2).double())
