"""Which nodes meet which edges: values per node to the ends of blocks, and messages back.

Nodes stand in one axis of length N, the ends of all blocks in two axes: destinations ("rows", sum
of D) and sources ("columns", sum of E). :class:`SlicedRoutes` goes from one to the other block by
block. All of it is linear and constant, so for a small network :class:`MatrixRoutes` keeps it as
matrices: then one product does the work of a hundred slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gmn_opt.metanet.once import made_once

if TYPE_CHECKING:
    from gmn_opt.metanet.layout import BlockedGraph

#: Largest number of elements of one routing matrix.
MATRIX_ELEMENTS = 1 << 18


class Routes(Protocol):
    """Linear maps along the last axis; leading axes batch channels and networks."""

    def columns(self, nodes: Tensor) -> Tensor:
        """``[..., N]`` as the sources of all edges, ``[..., sum of E]``."""
        ...

    def rows(self, nodes: Tensor) -> Tensor:
        """``[..., N]`` as the destinations, ``[..., sum of D]``."""
        ...

    def rows_of_blocks(self, blocks: Tensor) -> Tensor:
        """``[..., blocks]`` repeated for the rows of each, ``[..., sum of D]``."""
        ...

    def from_rows(self, rows: Tensor) -> Tensor:
        """Mean over the blocks that end in a node, ``[..., sum of D]`` to ``[..., N]``."""
        ...

    def from_columns(self, columns: Tensor) -> Tensor:
        """Mean over the blocks that start at a node, ``[..., sum of E]`` to ``[..., N]``."""
        ...

    def block_mean(self, rows: Tensor) -> Tensor:
        """Mean over the rows of every block, ``[..., blocks]``."""
        ...

    def group_mean(self, nodes: Tensor) -> Tensor:
        """Mean over groups of the mean over their nodes, ``[...]``."""
        ...

    def links(self, along: Tensor, against: Tensor) -> Tensor:
        """Mean over the links of a node: ``along`` from their sources, ``against`` back."""
        ...


class SlicedRoutes:
    """Routes block by block."""

    def __init__(self, layout: BlockedGraph) -> None:
        self.layout = layout
        self.counts = _message_counts(layout)

    def _groups(self, nodes: Tensor) -> tuple[Tensor, ...]:
        return nodes.split(self.layout.group_sizes, -1)

    def columns(self, nodes: Tensor) -> Tensor:
        """See :class:`Routes`."""
        groups = self._groups(nodes)
        blocks = self.layout.blocks
        return torch.cat([b.spread_src(b.src.read(groups[b.src.group])) for b in blocks], -1)

    def rows(self, nodes: Tensor) -> Tensor:
        """See :class:`Routes`."""
        groups = self._groups(nodes)
        return torch.cat([b.dst.read(groups[b.dst.group]) for b in self.layout.blocks], -1)

    def rows_of_blocks(self, blocks: Tensor) -> Tensor:
        """See :class:`Routes`."""
        parts = zip(blocks.split(1, -1), self.layout.sizes, strict=True)
        return torch.cat([b.expand(*b.shape[:-1], d) for b, (d, _) in parts], -1)

    def from_rows(self, rows: Tensor) -> Tensor:
        """See :class:`Routes`."""
        parts = rows.split([d for d, _ in self.layout.sizes], -1)
        pairs = zip(self.layout.blocks, parts, strict=True)
        return self._pool(0, [(b.dst.group, b.dst.write(part)) for b, part in pairs], rows)

    def from_columns(self, columns: Tensor) -> Tensor:
        """See :class:`Routes`."""
        parts = columns.split([e for _, e in self.layout.sizes], -1)
        pairs = zip(self.layout.blocks, parts, strict=True)
        written = [(b.src.group, b.src.write(b.pool_src(part))) for b, part in pairs]
        return self._pool(1, written, columns)

    def block_mean(self, rows: Tensor) -> Tensor:
        """See :class:`Routes`."""
        parts = rows.split([d for d, _ in self.layout.sizes], -1)
        return torch.stack([part.mean(-1) for part in parts], -1)

    def group_mean(self, nodes: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return torch.stack([g.mean(-1) for g in self._groups(nodes)], -1).mean(-1)

    def links(self, along: Tensor, against: Tensor) -> Tensor:
        """See :class:`Routes`."""
        to, back = self._groups(along), self._groups(against)
        written = []
        for link in self.layout.links:
            written.append((link.dst, link.along(to[link.src])))
            written.append((link.src, link.against(back[link.dst])))
        return self._pool(2, written, along)

    def _pool(self, side: int, messages: list[tuple[int, Tensor]], like: Tensor) -> Tensor:
        """Mean of the messages to every node, zero where there is none."""
        per_group: list[list[Tensor]] = [[] for _ in self.layout.group_sizes]
        for group, message in messages:
            per_group[group].append(message)
        found = []
        for group, received in enumerate(per_group):
            count = self.counts[side][group]
            if not received:
                found.append(like.new_zeros(*like.shape[:-1], self.layout.group_sizes[group]))
            elif len(received) == 1:
                found.append(received[0])
            else:
                total = torch.stack(received).sum(0)
                found.append(total / (count if isinstance(count, int) else count.to(total)))
        return torch.cat(found, -1)


def _message_counts(layout: BlockedGraph) -> list[list[int | Tensor]]:
    """Messages per node, incoming, outgoing and along links: at least 1, per group.

    A float64 ``[N]`` where the nodes of a group differ, else a number.
    """
    met: list[list[tuple[int, Tensor | int]]] = [
        [(b.dst.group, b.dst.coverage()) for b in layout.blocks],
        [(b.src.group, b.src.coverage()) for b in layout.blocks],
        [(group, 1) for link in layout.links for group in (link.src, link.dst)],
    ]
    found: list[list[int | Tensor]] = []
    for side in met:
        counts = [torch.zeros(n, dtype=torch.float64) for n in layout.group_sizes]
        for group, messages in side:
            counts[group] += messages
        counts = [c.clamp_min(1) for c in counts]
        found.append([int(c[0]) if bool((c == c[0]).all()) else c for c in counts])
    return found


class MatrixRoutes:
    """The same as constant matrices, for graphs with few nodes."""

    def __init__(self, sliced: SlicedRoutes, like: Tensor) -> None:
        layout = sliced.layout

        def eye(size: int) -> Tensor:
            return torch.eye(size, dtype=torch.float64)

        def kept(matrix: Tensor) -> Tensor:
            # not .to(like): a tensor inside a transform of torch.func would wrap what is kept
            return matrix.to(like.device, like.dtype)

        n, blocks = sum(layout.group_sizes), len(layout.blocks)
        d, e = (sum(size) for size in zip(*layout.sizes, strict=True))
        nodes = eye(n)
        self._columns = kept(sliced.columns(nodes))
        self._rows = kept(sliced.rows(nodes))
        self._rows_of_blocks = kept(sliced.rows_of_blocks(eye(blocks)))
        self._from_rows = kept(sliced.from_rows(eye(d)))
        self._from_columns = kept(sliced.from_columns(eye(e)))
        self._block_mean = kept(sliced.block_mean(eye(d)))
        self._group_mean = kept(sliced.group_mean(nodes))
        none = torch.zeros_like(nodes)
        self._along = kept(sliced.links(nodes, none))
        self._against = kept(sliced.links(none, nodes))

    def columns(self, nodes: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return nodes @ self._columns

    def rows(self, nodes: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return nodes @ self._rows

    def rows_of_blocks(self, blocks: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return blocks @ self._rows_of_blocks

    def from_rows(self, rows: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return rows @ self._from_rows

    def from_columns(self, columns: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return columns @ self._from_columns

    def block_mean(self, rows: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return rows @ self._block_mean

    def group_mean(self, nodes: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return nodes @ self._group_mean

    def links(self, along: Tensor, against: Tensor) -> Tensor:
        """See :class:`Routes`."""
        return along @ self._along + against @ self._against


class RouteTable:
    """The routes of a graph for every dtype and device they were asked for."""

    def __init__(self, layout: BlockedGraph) -> None:
        self.sliced = SlicedRoutes(layout)
        nodes = sum(layout.group_sizes)
        rows, columns = sum(d for d, _ in layout.sizes), sum(e for _, e in layout.sizes)
        #: Whether matrices pay.
        self.is_small = nodes * max(nodes, rows, columns) <= MATRIX_ELEMENTS
        self._made: dict[tuple[torch.dtype, torch.device], Routes] = {}

    def get(self, like: Tensor) -> Routes:
        """Routes for tensors like ``like``."""
        if not self.is_small or not self.sliced.layout.sizes:
            return self.sliced
        key = (like.dtype, like.device)
        if key not in self._made:
            self._make(like.dtype, like.device)
        return self._made[key]

    @made_once
    def _make(self, dtype: torch.dtype, device: torch.device) -> None:
        with torch.inference_mode(False):
            like = torch.zeros((), dtype=dtype, device=device)
            self._made[dtype, device] = MatrixRoutes(self.sliced, like)
