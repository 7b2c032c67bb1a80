"""Which nodes meet which ends of blocks: sparse linear maps, built once per graph.

Nodes stand in one axis of length N, group after group; the ends of all blocks in two axes:
destinations (D of all blocks) and sources (E of all, one per parallel edge). Going from one to the
other is linear and constant:

    gather: nodes as destinations, nodes as sources, blocks -> destinations, sources
    pool:   destinations, sources -> nodes as destinations, nodes as sources, blocks

Gathering gives every end the value of its node, the mean where it stands for several nodes (one
scale for all heads, say), and destinations the value of their block on top. Pooling takes the mean
over the blocks that meet in a node, and over the destinations of a block. All of it takes memory in
proportion to nodes and ends, for any shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmn_opt.metanet.kept import kept
from gmn_opt.metanet.layout import BlockedGraph, Endpoint, Sizes, blocked

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph


@dataclass(frozen=True)
class Map:
    """A sparse matrix of ``shape``, by its entries in the order of rows.

    With ``selects``, every row has one entry and that is 1.
    """

    shape: tuple[int, int]
    row: Tensor
    column: Tensor
    value: Tensor
    selects: bool

    @staticmethod
    def of(shape: tuple[int, int], row: Tensor, column: Tensor, value: Tensor) -> Map:
        """From entries in any order."""
        order = row.argsort(stable=True)
        row, column, value = row[order], column[order], value[order]
        each = torch.arange(shape[0], device=row.device)
        selects = torch.equal(row, each) and bool((value == 1).all())
        return Map(shape, row, column, value, selects)

    def __call__(self, x: Tensor) -> Tensor:
        """``[..., columns, c]`` to ``[..., rows, c]``."""
        picked = x.index_select(-2, self.column)
        if self.selects:
            return picked
        picked = picked * self.value.unsqueeze(-1)
        zeros = picked.new_zeros(*x.shape[:-2], self.shape[0], x.shape[-1])
        return zeros.index_add(-2, self.row, picked)

    @property
    def T(self) -> Map:
        """The transpose."""
        return Map.of(self.shape[::-1], self.column, self.row, self.value)

    @staticmethod
    def union(parts: Sequence[Map]) -> Map:
        """Blocks of one matrix, along its diagonal."""
        rows = list(accumulate((p.shape[0] for p in parts), initial=0))
        columns = list(accumulate((p.shape[1] for p in parts), initial=0))
        return Map(
            (rows[-1], columns[-1]),
            torch.cat([p.row + start for p, start in zip(parts, rows, strict=False)]),
            torch.cat([p.column + start for p, start in zip(parts, columns, strict=False)]),
            torch.cat([p.value for p in parts]),
            all(p.selects for p in parts),
        )


@dataclass(frozen=True)
class Packed:
    """Maps one after the other, by rows, for native code.

    ``numbers`` has for each the number of rows, of entries, where every row begins, and the columns
    of the entries; ``values`` has the values of all entries.
    """

    numbers: Tensor
    values: Tensor

    @staticmethod
    def of(maps: Iterable[Map]) -> Packed:
        """Those of some maps."""
        numbers, values = [], []
        for m in maps:
            begin = m.row.bincount(minlength=m.shape[0]).cumsum(0)
            numbers += [torch.tensor([m.shape[0], len(m.row), 0]).to(m.row), begin, m.column]
            values.append(m.value)
        return Packed(torch.cat(numbers), torch.cat(values))


@dataclass(frozen=True)
class Incidence:
    """All maps of a graph, or of several side by side, in one dtype on one device.

    ``blocks`` gives destinations the value of their block. ``link_starts`` takes the values of
    nodes, of each what it sends along links and what it sends against them (2 N), to places where
    they meet, ``link_ends`` from there to nodes, mean over links. ``node_means`` [graphs, N] are
    means over groups of the means over their nodes.
    """

    sizes: Sizes
    destinations: Map
    sources: Map
    blocks: Map
    from_destinations: Map
    from_sources: Map
    block_means: Map
    link_starts: Map
    link_ends: Map
    node_means: Map
    #: For native code: the maps of gathering and their transposes, and those of pooling.
    gathering: tuple[Packed, Packed] = field(init=False)
    pooling: tuple[Packed, Packed] = field(init=False)

    def __post_init__(self) -> None:
        """Pack."""
        out = (self.destinations, self.sources, self.blocks)
        back = (self.from_destinations, self.from_sources, self.block_means)
        for name, maps in (("gathering", out), ("pooling", back)):
            pair = (Packed.of(maps), Packed.of([m.T for m in maps]))
            object.__setattr__(self, name, pair)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """N, blocks, D and E."""
        (rows, nodes), (columns, _) = self.destinations.shape, self.sources.shape
        return nodes, len(self.sizes), rows, columns

    @staticmethod
    def of(layout: BlockedGraph, dtype: torch.dtype, device: torch.device) -> Incidence:
        """That of one graph."""

        def made(shape: tuple[int, int], row: Tensor, column: Tensor, value: Tensor) -> Map:
            entries = (row.to(device), column.to(device), value.to(device, dtype))
            return Map.of(shape, *entries)

        sizes, groups = layout.sizes, torch.tensor(layout.group_sizes)
        heights = torch.tensor([d for d, _ in sizes], dtype=torch.int64)
        nodes, blocks, rows = int(groups.sum()), len(sizes), int(heights.sum())
        block_of = torch.arange(blocks).repeat_interleave(heights)
        row = torch.arange(rows)
        destinations = _side(layout, [(b.dst, 1) for b in layout.blocks])
        sources = _side(layout, [(b.src, prod(b.kernel)) for b in layout.blocks])
        starts, ends = _links(layout)
        per_node = (1 / groups.double() / len(groups)).repeat_interleave(groups)
        first = torch.zeros(nodes, dtype=torch.int64)
        return Incidence(
            sizes,
            made(*destinations[0]),
            made(*sources[0]),
            made((rows, blocks), row, block_of, torch.ones(rows)),
            made(*destinations[1]),
            made(*sources[1]),
            made((blocks, rows), block_of, row, 1 / heights.double()[block_of]),
            made(*starts),
            made(*ends),
            made((1, nodes), first, torch.arange(nodes), per_node),
        )

    @staticmethod
    def union(parts: Sequence[Incidence]) -> Incidence:
        """Graphs side by side: nodes, ends and blocks of one after those of the other."""
        names = [f.name for f in fields(Incidence) if f.init and f.name != "sizes"]
        maps = {n: Map.union([getattr(p, n) for p in parts]) for n in names}
        return Incidence(tuple(s for p in parts for s in p.sizes), **maps)

    def over_links(self, along: Tensor, against: Tensor) -> Tensor:
        """Mean over the links of a node, ``[..., N, c]``, zero where there is none."""
        sent = torch.stack([along, against], -2).flatten(-3, -2)
        return self.link_ends(self.link_starts(sent))

    def node_mean(self, nodes: Tensor) -> Tensor:
        """Mean over the groups of one graph of the mean over their nodes: ``[..., c]``."""
        return nodes.mT @ self.node_means.value

    @property
    def has_links(self) -> bool:
        """Whether there are any."""
        return len(self.link_ends.row) > 0


def incidence_of(graph: ParameterGraph, like: Tensor) -> Incidence:
    """The incidence of ``graph`` for tensors like this, kept on the graph."""
    key = ("incidence", like.dtype, like.device)
    return kept(graph, key, lambda: Incidence.of(blocked(graph), like.dtype, like.device))


# ------------------------------------------------------------------------------------ entries

#: Shape, rows, columns and values of a matrix.
Entries = tuple[tuple[int, int], Tensor, Tensor, Tensor]


def _met(end: Endpoint, first_node: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Of all nodes that an end stands for: index in the end, node, and its share of the mean."""
    place = end.places()
    (node,) = (place >= 0).nonzero(as_tuple=True)
    place = place[node]
    share = 1 / place.bincount(minlength=end.size).double()[place]
    return place, node + first_node[end.group], share


def _side(layout: BlockedGraph, ends: Sequence[tuple[Endpoint, int]]) -> tuple[Entries, Entries]:
    """From nodes to one side of all blocks and back; every end with its parallel edges."""
    first_node = list(accumulate(layout.group_sizes, initial=0))
    meetings = torch.zeros(first_node[-1], dtype=torch.float64)
    found = [_NONE]
    first = 0
    for end, parallel in ends:
        place, node, share = _met(end, first_node)
        meetings[node] += 1
        edge = place.unsqueeze(1) * parallel + torch.arange(parallel) + first
        node, share = (t.repeat_interleave(parallel) for t in (node, share))
        part = torch.full((edge.numel(),), 1 / parallel, dtype=torch.float64)
        found.append((edge.flatten(), node, share, part))
        first += end.size * parallel
    edge, node, share, part = (torch.cat(parts) for parts in zip(*found, strict=True))
    out = ((first, first_node[-1]), edge, node, share)
    return out, ((first_node[-1], first), node, edge, part / meetings[node])


def _links(layout: BlockedGraph) -> tuple[Entries, Entries]:
    """From nodes to places where they meet, and from there to the nodes at the other end."""
    first_node = list(accumulate(layout.group_sizes, initial=0))
    nodes = first_node[-1]
    links = torch.zeros(nodes, dtype=torch.float64)
    starts, ends = [_NONE[:3]], [_NONE[:2]]
    first = 0
    for link in layout.links:
        for given, taken, way in ((link.src, link.dst, 0), (link.dst, link.src, 1)):
            place, node, share = _met(given, first_node)
            starts.append((place + first, 2 * node + way, share))
            place, node, _ = _met(taken, first_node)
            ends.append((node, place + first))
            links[node] += 1
            first += given.size
    start = (torch.cat(parts) for parts in zip(*starts, strict=True))
    node, place = (torch.cat(parts) for parts in zip(*ends, strict=True))
    slot, sent, share = start
    return ((first, 2 * nodes), slot, sent, share), ((nodes, first), node, place, 1 / links[node])


_INTEGERS, _REALS = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
_NONE = (_INTEGERS, _INTEGERS, _REALS, _REALS)
