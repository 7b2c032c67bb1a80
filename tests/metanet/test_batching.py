"""Networks of different architectures, together and one by one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import GraphMetanet, GraphReadout, blocked, many
from gmn_opt.metanet.batching import digest, grouped
from gmn_opt.metanet.layers.states import States
from tests.traced import largest_difference, random_tensors, traced

MIXED = ["mlp", "cnn", "transformer_encoder", "mlp", "unet", "grouped_conv", "mlp", "swiglu"]
both = pytest.mark.parametrize("backend", ["blocked", "sparse"])

Network = tuple[ParameterGraph, dict[str, Tensor]]


def metanet(backend: Any, outputs: int = 2, **options: Any) -> GraphMetanet:
    """A small one in float64, with nothing left at zero."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden": 8, "edge_hidden": 4, "layers": 2}
    net = GraphMetanet(1, outputs, **sizes, backend=backend, **options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


def networks(*lead: int) -> list[Network]:
    graphs = [traced(name)[1] for name in MIXED]
    return [
        (g, random_tensors(g, *lead, features=1, seed=number)) for number, g in enumerate(graphs)
    ]


@both
def test_together_as_one_by_one(backend: Any) -> None:
    net, mixed = metanet(backend), networks()
    together = many(net, mixed)
    alone = [metanet("blocked")(graph, tensors) for graph, tensors in mixed]
    assert len(together) == len(mixed)
    for a, b in zip(alone, together, strict=True):
        assert largest_difference(a, b) < 1e-12


@both
def test_scales_together_as_one_by_one(backend: Any) -> None:
    mixed = networks(2)
    options: dict[str, Any] = {"scale": "auto", "block_inputs": 2}
    net, reference = metanet(backend, **options), metanet("blocked", **options)
    _, blocks = inputs_of(mixed, 2)
    together = many(net, mixed, block_inputs=blocks)
    for (graph, tensors), b, out in zip(mixed, blocks, together, strict=True):
        assert largest_difference(reference(graph, tensors, block_inputs=b), out) < 1e-12


@both
def test_readouts_together_as_one_by_one(backend: Any) -> None:
    mixed = networks()
    torch.manual_seed(2)
    readout = GraphReadout(metanet(backend, 0), 3).double()
    with torch.no_grad():
        together = readout.many(mixed)
        alone = torch.stack([readout(graph, tensors) for graph, tensors in mixed])
    assert together.shape == (len(mixed), 3)
    assert float((together - alone).norm() / alone.norm()) < 1e-12


def test_gradients_of_both_executions_agree() -> None:
    mixed = networks()[:5]
    found = []
    for backend in ("blocked", "sparse"):
        torch.manual_seed(2)
        readout = GraphReadout(metanet(backend, 0), 3, standardize=True).double()
        loss = readout.many(mixed).square().sum()
        grads = torch.autograd.grad(loss, list(readout.parameters()), allow_unused=True)
        found.append([torch.zeros(()) if g is None else g for g in grads])
    scale = max(float(g.norm()) for g in found[0])
    assert scale > 0
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm()) < 1e-11 * scale


def inputs_of(mixed: list[Network], *lead: int) -> tuple[list[Tensor], list[Tensor]]:
    """Three inputs per node and two per block, for every network."""
    layouts = [blocked(graph) for graph, _ in mixed]
    draw = partial(torch.randn, dtype=torch.float64)
    nodes = [draw(*lead, sum(layout.group_sizes), 3) for layout in layouts]
    return nodes, [draw(*lead, len(layout.blocks), 2) for layout in layouts]


@both
@pytest.mark.parametrize("lead", [(), (2,)])
def test_inputs_together_as_one_by_one(backend: Any, lead: tuple[int, ...]) -> None:
    mixed = networks(*lead)
    nodes, blocks = inputs_of(mixed, *lead)
    if lead:  # some inputs are the same for all networks of a batch
        nodes[0], blocks[3] = nodes[0][:1], blocks[3][0]
    options: dict[str, Any] = {"node_inputs": 3, "block_inputs": 2}
    net, reference = metanet(backend, **options), metanet("blocked", **options)
    for (graph, tensors), n, b, out in zip(
        mixed, nodes, blocks, many(net, mixed, nodes, blocks), strict=True
    ):
        assert largest_difference(reference(graph, tensors, n, b), out) < 1e-12
        # and they are read
        assert largest_difference(reference(graph, tensors, n + 1, b), out) > 1e-4
        assert largest_difference(reference(graph, tensors, n, b + 1), out) > 1e-4


@both
def test_readouts_with_inputs_together_as_one_by_one(backend: Any) -> None:
    mixed = networks()
    nodes, _ = inputs_of(mixed)
    torch.manual_seed(2)
    readout = GraphReadout(metanet(backend, 0, node_inputs=3), 3).double()
    with torch.no_grad():
        together = readout.many(mixed, nodes)
        alone = torch.stack([readout(g, t, n) for (g, t), n in zip(mixed, nodes, strict=True)])
    assert float((together - alone).norm() / alone.norm()) < 1e-12


@both
def test_networks_may_be_batches_themselves(backend: Any) -> None:
    net, mixed = metanet(backend), networks(2)[:5]
    for (graph, tensors), out in zip(mixed, many(net, mixed), strict=True):
        assert largest_difference(metanet("blocked")(graph, tensors), out) < 1e-12


def test_equal_graphs_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = networks()
    again = ParameterGraph.from_json(mixed[0][0].to_json())
    mixed.append((again, mixed[0][1]))
    assert digest(again) == digest(mixed[0][0])
    assert grouped([(g, torch.Size([])) for g, _ in mixed]) == [
        [0, 3, 6, 8],
        [1],
        [2],
        [4],
        [5],
        [7],
    ]
    runs: list[torch.Size] = []
    run = GraphMetanet.all_rounds

    def counted(self: GraphMetanet, graph: ParameterGraph, states: States, *args: Any) -> Any:
        runs.append(states.edges.shape[:-2])
        return run(self, graph, states, *args)

    monkeypatch.setattr(GraphMetanet, "all_rounds", counted)
    many(metanet("blocked"), mixed)
    assert runs == [(4,), (1,), (1,), (1,), (1,), (1,)]


def test_bad_batches() -> None:
    mixed = networks()
    graph, tensors = mixed[1]
    with pytest.raises(ValueError, match=r"Network 1 of 2: .*expected shape"):
        many(metanet("blocked"), [mixed[0], (graph, random_tensors(graph, features=3))])
    with pytest.raises(ValueError, match="at least one network"):
        many(metanet("blocked"), [])
    with pytest.raises(ValueError, match="one by one"):
        many(metanet("sparse"), [mixed[0], (graph, random_tensors(graph, 2, features=1))])
    with pytest.raises(ValueError, match="out_features=0"):
        many(metanet("blocked", 0), [(graph, tensors)])


@both
def test_bad_inputs(backend: Any) -> None:
    mixed = networks()[:3]
    nodes, blocks = inputs_of(mixed)
    net = metanet(backend, node_inputs=3, block_inputs=2)
    count = len(nodes[1])
    for bad_nodes, bad_blocks, message in (
        (None, blocks, r"Network 0 of 3: This metanet takes 3 inputs per node.*received None"),
        (nodes, None, r"Network 0 of 3: This metanet takes 2 inputs per block.*received None"),
        (nodes[:2], blocks, "node_inputs: expected one tensor for each of 3 networks, received 2"),
        (nodes, [], "block_inputs: expected one tensor for each of 3 networks, received 0"),
        ([nodes[0], nodes[0], nodes[2]], blocks, rf"Network 1 of 3: .*\[..., {count}, 3\], rec"),
        (nodes, [blocks[0][:, :1], *blocks[1:]], r"Network 0 of 3: .* 2 inputs per block"),
        (
            [n.float() for n in nodes],
            blocks,
            r"Network 0 of 3: node_inputs: expected torch.float64",
        ),
        (nodes, [b.unsqueeze(0) for b in blocks], r"block_inputs: .* leading dimensions \[\]"),
    ):
        with pytest.raises(ValueError, match=message):
            many(net, mixed, bad_nodes, bad_blocks)
    with pytest.raises(ValueError, match="takes 0 inputs per node"):
        many(metanet(backend), mixed, nodes)
