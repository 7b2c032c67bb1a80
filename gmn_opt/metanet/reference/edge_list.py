"""The same rounds over a list of edges: slow, obvious, and the reference for the blocked ones.

Every edge is a row, and ``torch_geometric``'s scatter aggregates: first over the edges of an end of
a block, then over the blocks that meet in a node. A list may hold several graphs of different
architectures side by side, as in a batch of ``torch_geometric``: no edge runs between them, and
each has a graph state of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gmn_opt.extras import needs
from gmn_opt.metanet.incidence import Incidence, Map
from gmn_opt.metanet.layers.message import MessageLayer
from gmn_opt.metanet.layers.scale import ScaledStates, ScaleLayer
from gmn_opt.metanet.layers.states import States

with needs("graph"):
    from torch_geometric.utils import scatter


def _apply(matrix: Map, x: Tensor) -> Tensor:
    """The sparse ``matrix`` times ``x`` [..., columns, c], entry by entry."""
    sent = x[..., matrix.column, :] * matrix.value.unsqueeze(-1)
    return scatter(sent, matrix.row, -2, matrix.shape[0], "sum")


@dataclass(frozen=True)
class EdgeList:
    """The edges of one graph or of several.

    ``destination``, ``source`` and ``block`` number the ends and the block of every edge,
    ``node_graph`` and ``block_graph`` the graph of every node and block.
    """

    incidence: Incidence
    destination: Tensor
    source: Tensor
    block: Tensor
    node_graph: Tensor
    block_graph: Tensor

    @staticmethod
    def of(graphs: Sequence[Incidence]) -> EdgeList:
        """List the edges of graphs, block after block, destination-major."""
        joint = Incidence.union(graphs)
        device = joint.node_means.value.device
        destinations, sources, blocks = [], [], []
        first_row = first_column = 0
        for number, (d, e) in enumerate(joint.sizes):
            destinations.append(torch.arange(d).repeat_interleave(e) + first_row)
            sources.append(torch.arange(e).repeat(d) + first_column)
            blocks.append(torch.full((d * e,), number))
            first_row, first_column = first_row + d, first_column + e
        counts = torch.tensor([len(g.sizes) for g in graphs])
        block_graph = torch.arange(len(graphs)).repeat_interleave(counts)
        lines = (torch.cat(parts).to(device) for parts in (destinations, sources, blocks))
        destination, source, block = lines
        node_graph = joint.node_means.row
        return EdgeList(joint, destination, source, block, node_graph, block_graph.to(device))

    def at_destinations(self, nodes: Tensor) -> Tensor:
        """``[..., N, c]`` at the destinations of edges, ``[..., edges, c]``."""
        return _apply(self.incidence.destinations, nodes)[..., self.destination, :]

    def at_sources(self, nodes: Tensor) -> Tensor:
        """``[..., N, c]`` at the sources of edges, ``[..., edges, c]``."""
        return _apply(self.incidence.sources, nodes)[..., self.source, :]

    def incoming(self, edges: Tensor) -> Tensor:
        """Means over the edges that come in, ``[..., N, c]``."""
        matrix = self.incidence.from_destinations
        return _apply(matrix, scatter(edges, self.destination, -2, matrix.shape[1], "mean"))

    def outgoing(self, edges: Tensor) -> Tensor:
        """Means over the edges that go out, ``[..., N, c]``."""
        matrix = self.incidence.from_sources
        return _apply(matrix, scatter(edges, self.source, -2, matrix.shape[1], "mean"))

    def over_links(self, along: Tensor, against: Tensor) -> Tensor:
        """Means over links of values ``[..., N, c]`` that go either way."""
        sent = torch.stack([along, against], -2).flatten(-3, -2)
        return _apply(self.incidence.link_ends, _apply(self.incidence.link_starts, sent))

    def updated(
        self,
        layer: MessageLayer | ScaleLayer,
        states: States,
        norms: tuple[Tensor, Tensor, Tensor],
        pooled: Sequence[Tensor],
        messages: Tensor,
    ) -> States:
        """States of nodes, blocks and graphs; their norms, what nodes got, and edges' messages."""
        nodes, blocks, graph = norms
        count = len(self.block_graph)
        to_block = scatter(messages, self.block, -2, count, "mean")
        mean_block = scatter(blocks, self.block_graph, -2, graph.shape[-2], "mean")
        node_in = [nodes, *pooled, graph[..., self.node_graph, :]]
        block_in = [blocks, to_block, graph[..., self.block_graph, :]]
        graph_in = [graph, mean_block, _apply(self.incidence.node_means, nodes)]
        return States(
            states.nodes + layer.node_mlp(torch.cat(node_in, -1)),
            states.edges,
            states.blocks + layer.block_mlp(torch.cat(block_in, -1)),
            states.graph + layer.graph_mlp(torch.cat(graph_in, -1)),
            states.encoder,
        )


def run(
    layers: Iterable[nn.Module],
    listed: EdgeList,
    states: States | ScaledStates,
    kernels: Tensor,
    keep_edges: bool = True,
) -> States:
    """All rounds on an edge list.

    ``states`` are as of the blocked execution, but ``graph`` is ``[..., graphs, c]``; ``kernels``
    [edges, KERNEL_FEATURES]. What comes back has no encoder any more.
    """
    inner = states.states if isinstance(states, ScaledStates) else states
    rows, encoder = inner.edges.mT, inner.encoder
    if encoder is not None:
        rows = rows.unsqueeze(-2)  # [..., edges, 1, g]
        rows = (rows * (encoder if encoder.dim() == 2 else encoder[..., listed.block, :, :])).sum(
            -1
        )
    for layer in layers:
        if isinstance(layer, ScaleLayer):
            assert isinstance(states, ScaledStates)
            states, rows = _scale_round(layer, listed, states, rows, kernels)
        else:
            assert isinstance(layer, MessageLayer)
            assert isinstance(states, States)
            states, rows = _message_round(layer, listed, states, rows, kernels)
    inner = states.states if isinstance(states, ScaledStates) else states
    return replace(inner, edges=rows.mT, encoder=None) if keep_edges else inner


def _norms(layer: MessageLayer | ScaleLayer, states: States) -> tuple[Tensor, Tensor, Tensor]:
    nodes, blocks = layer.node_norm(states.nodes), layer.block_norm(states.blocks)
    return nodes, blocks, layer.graph_norm(states.graph)


def _message_round(
    layer: MessageLayer, t: EdgeList, states: States, edges: Tensor, kernels: Tensor
) -> tuple[States, Tensor]:
    """``layer`` with edge states ``edges`` [..., all edges, f]."""
    norms = nodes, blocks, _ = _norms(layer, states)
    h = silu(
        layer.edge(edges)
        + t.at_sources(layer.from_src(nodes))
        + t.at_destinations(layer.from_dst(nodes))
        + layer.from_block(blocks)[..., t.block, :]
        + layer.from_kernel(kernels)
    )
    links = t.over_links(layer.along_link(nodes), layer.against_link(nodes))
    return t.updated(layer, states, norms, [t.incoming(h), t.outgoing(h), links], h), edges + h


def _scale_round(
    layer: ScaleLayer, t: EdgeList, before: ScaledStates, edges: Tensor, kernels: Tensor
) -> tuple[ScaledStates, Tensor]:
    """``layer`` with edge states ``edges`` [..., all edges, f]."""
    z, y, scales, f = before.z, before.y, before.scales, layer.edge.in_features
    norms = x, blocks, _ = _norms(layer, before.states)
    at_src = t.at_sources(torch.cat([layer.src_x(x), layer.src_z(z), layer.src_y(y)], -1))
    at_dst = t.at_destinations(torch.cat([layer.dst_x(x), layer.dst_y(y), layer.dst_z(z)], -1))
    src_x, src_qz, src_z, src_y = at_src.split(f, -1)
    dst_x, dst_qy, dst_y, dst_z = at_dst.split(f, -1)
    q, w, forward, backward = layer.edge(edges).split(f, -1)
    of_block = layer.from_block(blocks)[..., t.block, :] + layer.from_kernel(kernels)
    h = silu(q * dst_qy * src_qz + dst_x + src_x + of_block)

    gate_z, gate_y = layer.gate(x).sigmoid().chunk(2, -1)
    link_z, link_y = layer.link_z(z), layer.link_y(y)
    # along links go activations, against them sensitivities; means are over both directions
    along = t.over_links(link_z, torch.zeros_like(link_z))
    against = t.over_links(torch.zeros_like(link_y), link_y)
    new_z = z + gate_z * (layer.keep_z(z) + layer.to_z(t.incoming(forward * src_z)) + along)
    new_y = y + gate_y * (layer.keep_y(y) + layer.to_y(t.outgoing(backward * dst_y)) + against)
    pooled = [
        torch.asinh(new_z * new_y),
        t.incoming(h),
        t.outgoing(h),
        t.over_links(layer.along_link(x), layer.against_link(x)),
        scales.canonical(new_z, layer.canonical_z(new_z)),
        scales.canonical(new_y, layer.canonical_y(new_y)),
    ]
    after = t.updated(layer, before.states, norms, pooled, h)
    return ScaledStates(after, new_z, new_y, scales), edges + h * w + dst_z * src_y
