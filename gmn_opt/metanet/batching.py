"""Batches of networks of different architectures.

Two ways, after the metanet's ``backend``:

- *blocked*: networks that share a graph, or have equal ones, are stacked, and every graph is run
  once. A training batch drawn from a few architectures costs a few passes.
- *sparse*: all networks become one disjoint union of graphs and one edge list, as batches do in
  ``torch_geometric``. The reference, and the better choice where no two networks are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmn_opt.metanet.checks import check_inputs
from gmn_opt.metanet.kept import kept
from gmn_opt.metanet.layers.states import States
from gmn_opt.metanet.layout import blocked

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph
    from gmn_opt.metanet.model import GraphMetanet

Network = tuple["ParameterGraph", Mapping[str, Tensor]]
"""A graph and its tensors, ``{name: [..., *shape, in_features]}``."""


def digest(graph: ParameterGraph) -> str:
    """Equal for graphs that are equal in everything, kept on the graph."""
    return kept(graph, "digest", lambda: sha256(graph.to_json().encode()).hexdigest())


@dataclass(frozen=True)
class _Member:
    """One network of a batch: its edge features ``[..., in_features, P]`` and inputs, checked."""

    graph: ParameterGraph
    edges: Tensor
    blocks: Tensor | None
    nodes: Tensor | None

    @property
    def lead(self) -> torch.Size:
        return self.edges.shape[:-2]


def grouped(networks: Sequence[tuple[ParameterGraph, torch.Size]]) -> list[list[int]]:
    """Positions of networks with equal graphs and equal leading dimensions, in order."""
    found: dict[tuple[str, torch.Size], list[int]] = {}
    for number, (graph, lead) in enumerate(networks):
        found.setdefault((digest(graph), lead), []).append(number)
    return list(found.values())


def many(
    metanet: GraphMetanet,
    networks: Sequence[Network],
    node_inputs: Sequence[Tensor] | None = None,
    block_inputs: Sequence[Tensor] | None = None,
) -> list[dict[str, Tensor]]:
    """What ``metanet`` says of networks of any architectures, in the order given.

    Arguments are those of :func:`states_of_many`. Networks with equal graphs are run together; with
    the sparse backend, all of them are.
    """
    states = states_of_many(metanet, networks, node_inputs, block_inputs)
    pairs = zip(networks, states, strict=True)
    return [metanet.named_outputs(graph, s) for (graph, _), s in pairs]


def states_of_many(
    metanet: GraphMetanet,
    networks: Sequence[Network],
    node_inputs: Sequence[Tensor] | None = None,
    block_inputs: Sequence[Tensor] | None = None,
    keep_edges: bool = True,
) -> list[States]:
    """Final states of every network, in the order given; see :meth:`GraphMetanet.states`.

    Args:
        metanet: Its backend says how they are run.
        networks: Graphs and their tensors.
        node_inputs: One ``[..., N, node_inputs]`` per network, if the metanet takes them.
        block_inputs: One ``[..., blocks, block_inputs]`` per network, if the metanet takes them.
        keep_edges: As there.

    Raises:
        ValueError: For no networks, tensors or inputs that do not match their graph or the
            metanet, another number of inputs than of networks; for the sparse backend also for
            leading dimensions that differ between networks.
    """
    members = _members(metanet, networks, node_inputs, block_inputs)
    if metanet.backend == "sparse":
        return _united(metanet, members, keep_edges)
    found: dict[int, States] = {}
    for places in grouped([(m.graph, m.lead) for m in members]):
        some = [members[i] for i in places]
        graph, lead = some[0].graph, some[0].lead
        first = metanet.first_states(
            graph,
            torch.stack([m.edges for m in some]),
            _stacked([m.blocks for m in some], lead),
            node_inputs=_stacked([m.nodes for m in some], lead),
        )
        states = metanet.all_rounds(graph, first, keep_edges)
        found |= {i: _pick(states, place) for place, i in enumerate(places)}
    return [found[i] for i in range(len(networks))]


def _members(
    metanet: GraphMetanet,
    networks: Sequence[Network],
    node_inputs: Sequence[Tensor] | None,
    block_inputs: Sequence[Tensor] | None,
) -> list[_Member]:
    if not networks:
        raise ValueError("A mixed batch needs at least one network, received none.")
    given: list[Sequence[Tensor | None]] = []
    for name, inputs in (("node_inputs", node_inputs), ("block_inputs", block_inputs)):
        if inputs is not None and len(inputs) != len(networks):
            raise ValueError(
                f"{name}: expected one tensor for each of {len(networks)} networks, received "
                f"{len(inputs)}."
            )
        given.append([None] * len(networks) if inputs is None else inputs)
    members = []
    for number, ((graph, tensors), nodes, blocks) in enumerate(zip(networks, *given, strict=True)):
        try:
            edges = metanet.edge_features(graph, tensors)
            check_inputs(metanet, blocked(graph), edges.shape[:-2], blocks, nodes)
        except ValueError as error:
            raise ValueError(f"Network {number} of {len(networks)}: {error}") from error
        members.append(_Member(graph, edges, blocks, nodes))
    return members


def _stacked(inputs: Sequence[Tensor | None], lead: torch.Size) -> Tensor | None:
    """Inputs of networks that share a graph, ``[networks, *lead, rows, count]``."""
    known = [t.expand(*lead, -1, -1) for t in inputs if t is not None]
    return torch.stack(known) if known else None


def _pick(states: States, place: int) -> States:
    encoder = states.encoder
    return States(
        states.nodes[place],
        states.edges[place],
        states.blocks[place],
        states.graph[place],
        encoder if encoder is None or encoder.dim() == 2 else encoder[place],
    )


def _united(metanet: GraphMetanet, members: Sequence[_Member], keep_edges: bool) -> list[States]:
    leads = {m.lead for m in members}
    if len(leads) > 1:
        raise ValueError(
            "The sparse backend runs networks side by side, so all need the same leading "
            f"dimensions; received {sorted(map(list, leads))}. List batched networks one by one."
        )
    first = [metanet.first_states(m.graph, m.edges, m.blocks, None, m.nodes) for m in members]
    joint = States(
        torch.cat([s.nodes for s in first], -2),
        torch.cat([s.edges for s in first], -1),
        torch.cat([s.blocks for s in first], -2),
        torch.stack([s.graph for s in first], -2),
        first[0].encoder,
    )
    joint = metanet.run_edge_list([m.graph for m in members], joint, keep_edges)
    nodes = joint.nodes.split([s.nodes.shape[-2] for s in first], -2)
    blocks = joint.blocks.split([s.blocks.shape[-2] for s in first], -2)
    parts = joint.edges.split([s.edges.shape[-1] for s in first], -1)
    return [
        replace(joint, nodes=n, edges=e, blocks=b, graph=joint.graph[..., i, :])
        for i, (n, e, b) in enumerate(zip(nodes, parts, blocks, strict=True))
    ]
