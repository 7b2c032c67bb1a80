"""Batches of networks of different architectures.

Two ways, after the metanet's ``backend``:

- *blocked*: networks that share a graph, or have equal ones, are stacked, and every graph is run
  once. A training batch drawn from a few architectures costs a few passes.
- *sparse*: all networks become one disjoint union of graphs and one edge list, as batches do in
  ``torch_geometric``. The reference, and the better choice where no two networks are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmn_opt.metanet.layout import blocked
from gmn_opt.metanet.message_passing import States

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph
    from gmn_opt.metanet.metanet import GraphMetanet

Network = tuple["ParameterGraph", Mapping[str, Tensor]]
"""A graph and its tensors, ``{name: [..., *shape, in_features]}``."""

_CACHE = "_structural_digest"


def digest(graph: ParameterGraph) -> str:
    """Equal for graphs that are equal in everything, kept on the graph."""
    found: str | None = graph.__dict__.get(_CACHE)
    if found is None:
        found = sha256(graph.to_json().encode()).hexdigest()
        object.__setattr__(graph, _CACHE, found)
    return found


def grouped(networks: Sequence[Network]) -> list[list[int]]:
    """Positions of networks with equal graphs and equal leading dimensions, in order."""
    found: dict[tuple[str, torch.Size], list[int]] = {}
    for number, (graph, tensors) in enumerate(networks):
        name, shape = next(iter(graph.shapes.items()))
        t = tensors[name]
        lead = t.shape[: t.dim() - len(shape) - 1]
        found.setdefault((digest(graph), lead), []).append(number)
    return list(found.values())


def states_of_many(
    metanet: GraphMetanet, networks: Sequence[Network], keep_edges: bool = True
) -> list[States]:
    """Final states of every network, in the order given; see :meth:`GraphMetanet.states`.

    Raises:
        ValueError: For no networks, tensors that do not match their graph, or a metanet that takes
            inputs per block or node; for the sparse backend also for leading dimensions that
            differ between networks.
    """
    if not networks or metanet.block_inputs or metanet.node_inputs:
        raise ValueError(
            "A mixed batch needs at least one network and a metanet without inputs per block or "
            f"node, received {len(networks)} networks, block_inputs={metanet.block_inputs}, "
            f"node_inputs={metanet.node_inputs}."
        )
    edges = []
    for number, (graph, tensors) in enumerate(networks):
        try:
            edges.append(metanet.edge_features(graph, tensors))
        except ValueError as error:
            raise ValueError(f"Network {number} of {len(networks)}: {error}") from error
    graphs = [graph for graph, _ in networks]
    if metanet.backend == "sparse":
        return _united(metanet, graphs, edges, keep_edges)
    found: dict[int, States] = {}
    for members in grouped(networks):
        graph = graphs[members[0]]
        states = metanet.states(
            graph, torch.stack([edges[i] for i in members]), keep_edges=keep_edges
        )
        found |= {i: _pick(states, place) for place, i in enumerate(members)}
    return [found[i] for i in range(len(networks))]


def _pick(states: States, place: int) -> States:
    encoder = states.encoder
    return States(
        states.nodes[place],
        states.edges[place],
        states.blocks[place],
        states.graph[place],
        encoder if encoder is None or encoder.dim() == 2 else encoder[place],
    )


def _united(
    metanet: GraphMetanet,
    graphs: Sequence[ParameterGraph],
    edges: Sequence[Tensor],
    keep_edges: bool,
) -> list[States]:
    from gmn_opt.metanet.sparse import Topology, run, topology_of

    leads = {e.shape[:-2] for e in edges}
    if len(leads) > 1:
        raise ValueError(
            "The sparse backend runs networks side by side, so all need the same leading "
            f"dimensions; received {sorted(map(list, leads))}. List batched networks one by one."
        )
    starts = [metanet.first_states(g, e) for g, e in zip(graphs, edges, strict=True)]
    device = edges[0].device
    topology = Topology.union([topology_of(blocked(g)) for g in graphs]).to(device)
    first = [s for s, _, _ in starts]
    joint = States(
        torch.cat([s.nodes for s in first], -2),
        torch.cat([s.edges for s in first], -1),
        torch.cat([s.blocks for s in first], -2),
        torch.stack([s.graph for s in first], -2),
        first[0].encoder,
    )
    positions = torch.cat(
        [metanet.edge_positions(g, e) for g, e in zip(graphs, edges, strict=True)]
    )
    joint = run(metanet.rounds(), topology, joint, positions, keep_edges)
    nodes = joint.nodes.split([s.nodes.shape[-2] for s in first], -2)
    blocks = joint.blocks.split([s.blocks.shape[-2] for s in first], -2)
    parts = joint.edges.split([s.edges.shape[-1] for s in first], -1)
    return [
        replace(joint, nodes=n, edges=e, blocks=b, graph=joint.graph[..., i, :])
        for i, (n, e, b) in enumerate(zip(nodes, parts, blocks, strict=True))
    ]
