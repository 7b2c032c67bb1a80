"""The same message passing over an edge list: slow, obvious, and the reference for the blocked one.

Every edge is a row; nodes and edges meet in *pins*, (edge, node) pairs. An edge has one pin per
end, or several where a block sees the mean of some nodes (see ``layout.Endpoint``). Aggregation is
``torch_geometric``'s scatter: first over the edges of one block, then over blocks.

An edge list may hold several graphs of different architectures side by side
(:meth:`Topology.union`), as in a batch of ``torch_geometric``: no edge runs between them, and each
has a graph state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch_geometric.utils import scatter, softmax

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
class Hops:
    """Links, node by node: what ``along_from`` and ``against_from`` send meets in slots.

    A slot is a node that one direction of one link reaches, ``slot_node`` its number.
    """

    along_from: Tensor
    along_slot: Tensor
    against_from: Tensor
    against_slot: Tensor
    slot_node: Tensor

    def carry(self, along: Tensor, against: Tensor, nodes: int) -> Tensor:
        """Mean within and then over links of values ``[..., N, f]`` of either direction."""
        sent = torch.cat([along[..., self.along_from, :], against[..., self.against_from, :]], -2)
        slots = torch.cat([self.along_slot, self.against_slot])
        per_slot = scatter(sent, slots, -2, len(self.slot_node), "mean")
        return scatter(per_slot, self.slot_node, -2, nodes, "mean")


@dataclass(frozen=True)
class Topology:
    """An explicit edge list of one graph or of several.

    ``dst`` and ``src`` hold the pins of both roles; ``row`` and ``column`` number the destinations
    and sources of every edge as its block sees them; ``block`` is the block of every edge,
    ``group`` the group of every node, ``block_graph`` and ``group_graph`` the graph of every block
    and group.
    """

    dst: Pins
    src: Pins
    links: Hops
    row: Tensor
    column: Tensor
    block: Tensor
    group: Tensor
    block_graph: Tensor
    group_graph: Tensor
    graphs: int = 1

    @staticmethod
    def of(layout: BlockedGraph) -> Topology:
        """List the edges of ``layout``, block after block, destination-major."""
        first_node = list(accumulate(layout.group_sizes, initial=0))
        collected: dict[str, list[Tensor]] = {"dst": [], "src": []}
        blocks, start = [], 0
        lines: tuple[list[Tensor], list[Tensor]] = ([], [])
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
            for line, seen in zip(lines, (rows, torch.arange(s * k).repeat(d)), strict=True):
                line.append(seen + (int(line[-1].max()) + 1 if line else 0))
            start += d * s * k
        pins = {}
        for role, parts in collected.items():
            edge, node, block = torch.cat(parts, 1)
            pairs, pair = torch.stack([block, node]).unique(dim=1, return_inverse=True)
            pins[role] = Pins(edge, node, pair, pairs[1])
        sizes = torch.tensor(layout.group_sizes)
        return Topology(
            pins["dst"],
            pins["src"],
            _hops(layout, first_node),
            torch.cat(lines[0]),
            torch.cat(lines[1]),
            torch.cat(blocks),
            torch.arange(len(sizes)).repeat_interleave(sizes),
            torch.zeros(len(layout.blocks), dtype=torch.int64),
            torch.zeros(len(sizes), dtype=torch.int64),
        )

    @staticmethod
    def union(parts: Sequence[Topology]) -> Topology:
        """All graphs side by side: nodes, edges and blocks of one after those of the other."""

        def joined(read: Callable[[Topology], Tensor], size: Callable[[Topology], int]) -> Tensor:
            starts = accumulate((size(p) for p in parts), initial=0)
            return torch.cat([read(p) + start for p, start in zip(parts, starts, strict=False)])

        def nodes(p: Topology) -> int:
            return len(p.group)

        def pins(of: Callable[[Topology], Pins]) -> Pins:
            return Pins(
                joined(lambda p: of(p).edge, lambda p: len(p.block)),
                joined(lambda p: of(p).node, nodes),
                joined(lambda p: of(p).pair, lambda p: len(of(p).pair_node)),
                joined(lambda p: of(p).pair_node, nodes),
            )

        def slots(p: Topology) -> int:
            return len(p.links.slot_node)

        return Topology(
            pins(lambda p: p.dst),
            pins(lambda p: p.src),
            Hops(
                joined(lambda p: p.links.along_from, nodes),
                joined(lambda p: p.links.along_slot, slots),
                joined(lambda p: p.links.against_from, nodes),
                joined(lambda p: p.links.against_slot, slots),
                joined(lambda p: p.links.slot_node, nodes),
            ),
            joined(lambda p: p.row, lambda p: int(p.row.max()) + 1),
            joined(lambda p: p.column, lambda p: int(p.column.max()) + 1),
            joined(lambda p: p.block, lambda p: len(p.block_graph)),
            joined(lambda p: p.group, lambda p: len(p.group_graph)),
            joined(lambda p: p.block_graph, lambda p: p.graphs),
            joined(lambda p: p.group_graph, lambda p: p.graphs),
            sum(p.graphs for p in parts),
        )

    def to(self, device: torch.device) -> Topology:
        """The same on ``device``."""
        if self.block.device == device:
            return self

        def moved(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, Pins | Hops):
                return type(value)(*(moved(getattr(value, f.name)) for f in fields(value)))  # type: ignore[arg-type]
            return value

        return Topology(*(moved(getattr(self, f.name)) for f in fields(self)))  # type: ignore[arg-type]


_CACHE = "_topology"


def topology_of(layout: BlockedGraph) -> Topology:
    """:meth:`Topology.of`, made once and kept on the layout."""
    found = layout.__dict__.get(_CACHE)
    if found is None:
        found = layout.__dict__[_CACHE] = Topology.of(layout)
    return found


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


def _hops(layout: BlockedGraph, first_node: Sequence[int]) -> Hops:
    none = torch.zeros(0, dtype=torch.int64)
    froms: tuple[list[Tensor], list[Tensor]] = ([none], [none])
    slots: tuple[list[Tensor], list[Tensor]] = ([none], [none])
    reached, count = [none], 0
    for link in layout.links:
        src, dst = _linked(link)
        src, dst = src + first_node[link.src], dst + first_node[link.dst]
        for direction, (giving, taking) in enumerate(((src, dst), (dst, src))):
            nodes, slot = taking.unique(return_inverse=True)
            froms[direction].append(giving)
            slots[direction].append(slot + count)
            reached.append(nodes)
            count += len(nodes)
    return Hops(
        torch.cat(froms[0]),
        torch.cat(slots[0]),
        torch.cat(froms[1]),
        torch.cat(slots[1]),
        torch.cat(reached),
    )


def edge_kernels(
    layout: BlockedGraph, kernels: Tensor | None, like: Tensor, channels: int
) -> Tensor:
    """Kernel features of every edge, ``[edges, channels]``; zero where there are none."""
    if kernels is None:
        return like.new_zeros(sum(layout.edge_counts), channels)
    parts = kernels.T.split([e for _, e in layout.sizes])
    return torch.cat([part.repeat(d, 1) for part, (d, _) in zip(parts, layout.sizes, strict=True)])


def run(
    layers: Iterable[MessageLayer],
    topology: Topology,
    states: States,
    kernels: Tensor,
    keep_edges: bool = True,
) -> States:
    """All rounds on an edge list.

    ``states`` are as of the blocked execution, but ``graph`` is ``[..., graphs, c]``; ``kernels``
    [edges, KERNEL_FEATURES]. What comes back has no encoder any more.
    """
    encoder = states.encoder
    assert encoder is not None
    rows = states.edges.mT.unsqueeze(-2)  # [..., P, 1, g]
    if encoder.dim() > 2:
        encoder = encoder[..., topology.block, :, :]
    rows = (rows * encoder).sum(-1)
    for layer in layers:
        states, rows = sparse_layer(layer, topology, states, rows, kernels)
    if not keep_edges:
        return States(states.nodes, states.edges, states.blocks, states.graph, states.encoder)
    return States(states.nodes, rows.mT, states.blocks, states.graph)


def _weighted(h: Tensor, scores: Tensor, line: Tensor) -> Tensor:
    """Messages ``[..., edges, f]`` scaled so that their mean over a line is the attended one."""
    weights = softmax(scores, line, dim=-2) * line.bincount()[line].unsqueeze(-1)
    return (h.unflatten(-1, (scores.shape[-1], -1)) * weights.unsqueeze(-1)).flatten(-2)


def sparse_layer(
    layer: MessageLayer, topology: Topology, states: States, edges: Tensor, kernels: Tensor
) -> tuple[States, Tensor]:
    """``layer`` on an edge list with edge states ``edges`` [..., all edges, f]."""
    t = topology
    count, total = edges.shape[-2], states.nodes.shape[-2]
    groups, graphs = len(t.group_graph), t.graphs
    nodes, blocks = layer.node_norm(states.nodes), layer.block_norm(states.blocks)
    graph = layer.graph_norm(states.graph)

    h = silu(
        layer.edge(edges)
        + t.src.read(layer.from_src(nodes), count)
        + t.dst.read(layer.from_dst(nodes), count)
        + layer.from_block(blocks)[..., t.block, :]
        + layer.from_kernel(kernels)
    )
    links = t.links.carry(layer.along_link(nodes), layer.against_link(nodes), total)
    of_node = graph[..., t.group_graph[t.group], :]
    inward = outward = h
    if layer.score is not None:
        scores = layer.score(h).unflatten(-1, (2, -1))
        inward, outward = (
            _weighted(h, scores[..., side, :], line) for side, line in enumerate((t.row, t.column))
        )
    node_in = [nodes, t.dst.write(inward, total), t.src.write(outward, total), links, of_node]
    to_block = scatter(inward, t.block, -2, len(t.block_graph), "mean")
    block_in = [blocks, to_block, graph[..., t.block_graph, :]]
    per_group = scatter(nodes, t.group, -2, groups, "mean")
    mean_node = scatter(per_group, t.group_graph, -2, graphs, "mean")
    mean_block = scatter(blocks, t.block_graph, -2, graphs, "mean")
    graph_in = [graph, mean_block, mean_node]
    after = States(
        states.nodes + layer.node_mlp(torch.cat(node_in, -1)),
        states.edges,
        states.blocks + layer.block_mlp(torch.cat(block_in, -1)),
        states.graph + layer.graph_mlp(torch.cat(graph_in, -1)),
        states.encoder,
    )
    return after, edges + h
