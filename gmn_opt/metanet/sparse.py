"""The same message passing over an edge list: slow, obvious, and the reference for the blocked one.

Every edge is a row; nodes and edges meet in *pins*, (edge, node) pairs. An edge has one pin per
end, or several where a block sees the mean of some nodes (see ``layout.Endpoint``). Aggregation is
``torch_geometric``'s scatter: first over the edges of one block, then over blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch_geometric.utils import scatter

from gmn_opt.metanet.layout import BlockedGraph, Endpoint, LinkLayout
from gmn_opt.metanet.message_passing import MessageLayer, States


@dataclass(frozen=True)
class Pins:
    """(edge, node) pairs of one role; ``pair`` numbers the distinct (block, node) pairs."""

    edge: Tensor
    node: Tensor
    pair: Tensor
    pair_node: Tensor

    def read(self, nodes: Tensor, edges: int) -> Tensor:
        """Node values ``[..., N, f]`` at the edges: ``[..., edges, f]``."""
        return scatter(nodes[..., self.node, :], self.edge, -2, edges, "mean")

    def write(self, messages: Tensor, nodes: int) -> Tensor:
        """Edge values ``[..., edges, f]`` averaged within and then over blocks: ``[..., N, f]``."""
        count = len(self.pair_node)
        per_pair = scatter(messages[..., self.edge, :], self.pair, -2, count, "mean")
        return scatter(per_pair, self.pair_node, -2, nodes, "mean")


@dataclass(frozen=True)
class Topology:
    """An explicit edge list: pins of both roles and the block of every edge."""

    dst: Pins
    src: Pins
    block: Tensor
    group: Tensor

    @staticmethod
    def of(layout: BlockedGraph) -> Topology:
        """List the edges of ``layout``, block after block, destination-major."""
        first_node = torch.tensor([0, *layout.group_sizes]).cumsum(0).tolist()
        collected: dict[str, list[Tensor]] = {"dst": [], "src": []}
        blocks, start = [], 0
        for number, b in enumerate(layout.blocks):
            d, s, k = b.size
            rows = torch.arange(d).repeat_interleave(s * k)
            columns = torch.arange(s).repeat_interleave(k).repeat(d)
            for role, end, seen in (("dst", b.dst, rows), ("src", b.src, columns)):
                nodes = _seen_by(end)  # [nodes of the group]: which index the block sees
                edge, local = (seen[:, None] == nodes[None, :]).nonzero(as_tuple=True)
                node = local + first_node[end.group]
                here = torch.full_like(edge, number)
                collected[role].append(torch.stack([edge + start, node, here]))
            blocks.append(torch.full((d * s * k,), number))
            start += d * s * k
        pins = {}
        for role, parts in collected.items():
            edge, node, block = torch.cat(parts, 1)
            pairs, pair = torch.stack([block, node]).unique(dim=1, return_inverse=True)
            pins[role] = Pins(edge, node, pair, pairs[1])
        group = torch.arange(len(layout.group_sizes)).repeat_interleave(
            torch.tensor(layout.group_sizes)
        )
        return Topology(pins["dst"], pins["src"], torch.cat(blocks), group)


def _seen_by(end: Endpoint) -> Tensor:
    """For every node of the group, the index under which the block sees it; -1 if it does not."""
    numbers = torch.arange(1, end.size + 1, dtype=torch.float64)
    return end.write(numbers).long() - 1


def _linked(link: LinkLayout) -> tuple[Tensor, Tensor]:
    """All pairs (source node, destination node) of a link: those that agree on what is shared."""
    a, b = _seen_by(link.from_src), _seen_by(link.from_dst)
    if link.order:
        sizes = [link.from_src.sizes[i] for i in link.from_src.kept]
        places = torch.arange(link.from_src.size).view(sizes).permute(link.order).flatten()
        b = places[b]
    src, dst = (a[:, None] == b[None, :]).nonzero(as_tuple=True)
    return src, dst


def _positions(
    layer: MessageLayer, layout: BlockedGraph, kernels: Tensor | None, like: Tensor
) -> Tensor:
    """What the kernel positions add to every edge, ``[all edges, f]``."""
    if kernels is None:
        return like.new_zeros(())
    parts = kernels.T.split([e for _, e in layout.sizes])
    repeated = [part.repeat(d, 1) for part, (d, _) in zip(parts, layout.sizes, strict=True)]
    return layer.from_kernel(torch.cat(repeated))


def sparse_layer(
    layer: MessageLayer,
    layout: BlockedGraph,
    topology: Topology,
    states: States,
    edges: Tensor,
    kernels: Tensor | None,
) -> tuple[States, Tensor]:
    """``layer`` on an edge list with edge states ``edges`` [..., all edges, f]."""
    count, total = edges.shape[-2], states.nodes.shape[-2]
    nodes, blocks = layer.node_norm(states.nodes), layer.block_norm(states.blocks)
    graph = layer.graph_norm(states.graph)

    h = silu(
        layer.edge(edges)
        + topology.src.read(layer.from_src(nodes), count)
        + topology.dst.read(layer.from_dst(nodes), count)
        + layer.from_block(blocks)[..., topology.block, :]
        + _positions(layer, layout, kernels, edges)
    )
    links = torch.zeros_like(h[..., :1, :].expand(*h.shape[:-2], total, -1))
    if layout.links:
        starts = torch.tensor([0, *layout.group_sizes]).cumsum(0).tolist()
        along, against = layer.along_link(nodes), layer.against_link(nodes)
        per_link, targets = [], []
        for link in layout.links:
            a, b_nodes = _linked(link)
            a, b_nodes = a + starts[link.src], b_nodes + starts[link.dst]
            for values, giving, taking in ((along, a, b_nodes), (against, b_nodes, a)):
                reached, slot = taking.unique(return_inverse=True)
                picked = values[..., giving, :]
                per_link.append(scatter(picked, slot, -2, len(reached), "mean"))
                targets.append(reached)
        links = scatter(torch.cat(per_link, -2), torch.cat(targets), -2, total, "mean")

    u = graph.unsqueeze(-2)
    parts = [nodes, topology.dst.write(h, total), topology.src.write(h, total), links]
    node_in = torch.cat([*parts, u.expand(*nodes.shape[:-1], -1)], -1)
    to_block = scatter(h, topology.block, -2, len(layout.blocks), "mean")
    block_in = torch.cat([blocks, to_block, u.expand(*blocks.shape[:-1], -1)], -1)
    mean_node = scatter(nodes, topology.group, -2, len(layout.group_sizes), "mean").mean(-2)
    graph_in = torch.cat([graph, blocks.mean(-2), mean_node], -1)
    after = States(
        states.nodes + layer.node_mlp(node_in),
        states.edges,
        states.blocks + layer.block_mlp(block_in),
        states.graph + layer.graph_mlp(graph_in),
    )
    return after, edges + h
