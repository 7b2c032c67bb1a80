"""A parameter graph written out node by node and edge by edge.

Blocks say which tensor runs between which groups; here every neuron gets a number and every
parameter element a row, as in the paper's definition (Lim et al. 2023, arXiv 2312.04501,
section 2). Nodes are numbered group after group, within a group by the index of its factors, first
factor outermost.

Beyond the paper, there are *auxiliary* nodes. A block may see its group only from afar: one scale
for all heads, say, or one weight for the maximum over some pieces. Its edges then end at auxiliary
nodes, one per index that the block tells apart, and each of those has an identity edge to every
neuron that it stands for. The same kind of node tells which neurons share a head, or a group of a
grouped convolution: wherever permutations depend on the index of another factor, that factor has
one auxiliary node per index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from gmn_opt.graph.structure import Block, BlockGraph
from gmn_opt.kept import kept

ROLES = ("input", "hidden", "output", "bias", "auxiliary")
KINDS = (
    *("linear", "conv", "embedding", "bias", "scale", "shift", "other"),
    *("residual", "product", "norm", "member"),
)
FIRST_FREE_KIND = KINDS.index("residual")
KERNEL_AXES = 3


@dataclass(frozen=True)
class NodeSet:
    """The nodes of a group, or auxiliary nodes; ``factors`` as in a ``NodeGroup``.

    Auxiliary nodes that stand for all neurons of a group name it in ``of``; ``toward`` says
    whether parameters lead to it through them, or from it. Heads stand above several groups.
    """

    name: str
    role: str
    factors: tuple[int, ...]
    activation: str | None
    start: int
    size: int
    of: int | None = None
    toward: bool = False

    @property
    def numbers(self) -> range:
        """The numbers of the nodes."""
        return range(self.start, self.start + self.size)


@dataclass(frozen=True)
class EdgeList:
    """All nodes and edges. Edges with a parameter come first, block after block.

    Attributes:
        nodes: The node sets: the graph's groups in their order, then auxiliary ones.
        node_set: Position in ``nodes`` of every node, int64 ``[N]``.
        node_place: Index of every node along the fixed factors of its group, int64 ``[N]``; -1
            where the group has none. Free indices are no features: a symmetry moves them.
        ends: Source and destination node of every edge, int64 ``[2, E]``.
        block: Position of every edge's block in ``graph.blocks``, int32 ``[E]``; -1 without one.
        kind: Position of every edge's kind in :data:`KINDS`, int32 ``[E]``.
        kernel: Place of an edge among its parallel edges, int32 ``[E, 3]``: index along the last
            three kernel axes (further ones are folded into the first), -1 where there is none.
        position: Flat position of the edge's element in its tensor, int64 ``[E]``; -1 without one.
    """

    nodes: tuple[NodeSet, ...]
    node_set: Tensor
    node_place: Tensor
    ends: Tensor
    block: Tensor
    kind: Tensor
    kernel: Tensor
    position: Tensor

    @property
    def parameters(self) -> int:
        """Number of edges that have a parameter."""
        return int((self.block >= 0).sum())


class _Builder:
    def __init__(self, graph: BlockGraph) -> None:
        self.graph = graph
        self.size_of = [f.size for f in graph.factors]
        self.sets: list[NodeSet] = []
        self.auxiliary: dict[tuple[object, ...], int] = {}
        self.rows: list[tuple[Tensor, ...]] = []
        for group in graph.groups:
            self.add(group.name, group.role, group.factors, group.activation)

    def add(
        self,
        name: str,
        role: str,
        factors: Sequence[int],
        activation: str | None = None,
        of: int | None = None,
        toward: bool = False,
    ) -> int:
        """A new node set; its position."""
        start = self.sets[-1].start + self.sets[-1].size if self.sets else 0
        size = prod(self.size_of[f] for f in factors)
        nodes = NodeSet(name, role, tuple(factors), activation, start, size, of, toward)
        self.sets.append(nodes)
        return len(self.sets) - 1

    def number(self, where: int, index: dict[int, Tensor], count: int) -> Tensor:
        """Node numbers in a set at given indices of its factors, int64 ``[count]``."""
        local = torch.zeros(count, dtype=torch.int64)
        for f in self.sets[where].factors:
            local = local * self.size_of[f] + index[f]
        return local + self.sets[where].start

    def emit(
        self, src: Tensor, dst: Tensor, block: int, kind: str, kernel: Tensor, position: Tensor
    ) -> None:
        """Edges of one block or link."""
        n = len(src)
        self.rows.append(
            (
                torch.stack([src, dst]),
                torch.full((n,), block, dtype=torch.int32),
                torch.full((n,), KINDS.index(kind), dtype=torch.int32),
                kernel.to(torch.int32),
                position,
            )
        )

    def emit_plain(self, src: Tensor, dst: Tensor, kind: str) -> None:
        """Edges without parameters."""
        none = torch.full((len(src),), -1)
        self.emit(src, dst, -1, kind, none[:, None].expand(-1, KERNEL_AXES), none)

    # ------------------------------------------------------------------ parameters

    def block(self, number: int, block: Block) -> None:
        """One edge per element."""
        legs = [
            (f, role)
            for dim, roles in zip(block.dims, block.roles, strict=True)
            for f, role in zip(dim, roles, strict=True)
        ]
        index = _unravel(block.numel, [self.size_of[f] for f, _ in legs])
        ends = {}
        for role, group in (("dst", block.dst), ("src", block.src)):
            ends[role] = self.end(role, group, legs, index, block.numel)
        kernel = self.kernel([(f, k) for (f, r), k in zip(legs, index, strict=True)
                              if r == "kernel"], block.numel)  # fmt: skip
        self.emit(
            ends["src"], ends["dst"], number, block.kind, kernel, self.place(block, legs, index)
        )

    def end(
        self,
        role: str,
        group: int,
        legs: Sequence[tuple[int, str]],
        index: list[Tensor],
        count: int,
    ) -> Tensor:
        """Nodes at one end of a block's elements, int64 ``[count]``."""
        found: dict[int, Tensor] = {}
        for f in self.graph.groups[group].factors:
            # A factor that the block has at its other end only (the channels of a depthwise
            # convolution) is the same index at both ends.
            mine = [k for (g, r), k in zip(legs, index, strict=True) if g == f and r == role]
            rest = [k for (g, r), k in zip(legs, index, strict=True) if g == f and r != role]
            if mine or rest:
                found[f] = (mine or rest)[0]
            elif self.size_of[f] == 1:
                found[f] = torch.zeros(count, dtype=torch.int64)
        kept = [
            f for f in self.graph.groups[group].factors
            if f in found and ancestors(self.graph, f) <= found.keys()
        ]  # fmt: skip
        if len(kept) == len(self.graph.groups[group].factors):
            return self.number(group, found, count)
        return self.number(self.seen_from(role, group, kept), found, count)

    def seen_from(self, role: str, group: int, kept: list[int]) -> int:
        """Auxiliary nodes that stand for all neurons of a group with the same ``kept`` index."""
        key = (role, group, *kept)
        if key not in self.auxiliary:
            name = f"{self.sets[group].name} ({'to' if role == 'dst' else 'from'} all)"
            toward = role == "dst"
            self.auxiliary[key] = self.add(name, "auxiliary", kept, of=group, toward=toward)
            members, tops = self.members(self.auxiliary[key], group)
            pair = (tops, members) if toward else (members, tops)
            self.emit_plain(*pair, "member")
        return self.auxiliary[key]

    def members(self, top: int, group: int) -> tuple[Tensor, Tensor]:
        """The nodes of a group, and the auxiliary node of each."""
        factors, n = self.sets[group].factors, self.sets[group].size
        index = dict(zip(factors, _unravel(n, [self.size_of[f] for f in factors]), strict=True))
        return self.number(group, index, n), self.number(top, index, n)

    def kernel(self, legs: list[tuple[int, Tensor]], count: int) -> Tensor:
        """Index along the last kernel axes, ``[count, 3]``."""
        columns: list[Tensor] = []
        for number, (f, k) in enumerate(legs):
            if number and number < len(legs) - KERNEL_AXES + 1:
                columns[0] = columns[0] * self.size_of[f] + k
            else:
                columns.append(k)
        none = torch.full((count,), -1, dtype=torch.int64)
        return torch.stack([none] * (KERNEL_AXES - len(columns)) + columns, 1)

    def place(self, block: Block, legs: Sequence[tuple[int, str]], index: list[Tensor]) -> Tensor:
        """Flat positions of a block's elements in their tensor."""
        flat = torch.zeros(block.numel, dtype=torch.int64)
        at = 0
        shape = self.graph.shapes[block.tensor]
        for dim, where, size in zip(block.dims, block.index, shape, strict=True):
            local = torch.zeros(block.numel, dtype=torch.int64)
            for (f, _), k in zip(legs[at : at + len(dim)], index[at : at + len(dim)], strict=True):
                local = local * self.size_of[f] + k
            at += len(dim)
            flat = flat * size + torch.tensor(where, dtype=torch.int64)[local]
        return flat

    # ------------------------------------------------------------------ identity edges

    def links(self) -> None:
        """An edge between any two nodes of linked groups that agree in all shared factors."""
        for link in self.graph.links:
            src, dst = self.sets[link.src], self.sets[link.dst]
            union = tuple(dict.fromkeys((*src.factors, *dst.factors)))
            if not src.size or not dst.size:
                continue
            count = prod(self.size_of[f] for f in union)
            index = dict(zip(union, _unravel(count, [self.size_of[f] for f in union]), strict=True))
            a, b = (self.number(i, index, count) for i in (link.src, link.dst))
            self.emit_plain(a, b, link.kind)

    def heads(self) -> None:
        """One node per index of what permutations depend on, above all its neurons."""
        for number, group in enumerate(self.graph.groups):
            above: dict[tuple[int, ...], None] = {}
            for f in group.factors:
                parents = ancestors(self.graph, f)
                if parents and parents <= set(group.factors):
                    above[tuple(sorted(parents))] = None
            for parents_ in above:
                key = ("head", *parents_)
                if key not in self.auxiliary:
                    name = " × ".join(self.graph.factors[p].name or str(p) for p in parents_)
                    self.auxiliary[key] = self.add(f"{name} (heads)", "auxiliary", parents_)
                members, tops = self.members(self.auxiliary[key], number)
                self.emit_plain(tops, members, "member")

    def finish(self) -> EdgeList:
        """Everything in tensors."""
        if self.rows:
            ends, block, kind, kernel, position = (
                torch.cat([row[i] for row in self.rows], 1 if i == 0 else 0) for i in range(5)
            )
        else:
            ends, kernel = torch.zeros(2, 0).long(), torch.zeros(0, KERNEL_AXES).int()
            block, kind, position = kernel[:, 0], kernel[:, 0], kernel[:, 0].long()
        first = (block < 0).to(torch.int8).argsort(stable=True)
        sizes = torch.tensor([s.size for s in self.sets])
        places = [self.node_place(s) for s in self.sets]
        return EdgeList(
            tuple(self.sets),
            torch.arange(len(self.sets)).repeat_interleave(sizes),
            torch.cat(places),
            ends[:, first],
            block[first],
            kind[first],
            kernel[first],
            position[first],
        )

    def node_place(self, nodes: NodeSet) -> Tensor:
        """Index of nodes along their fixed factors, ``[size]``."""
        sizes = [self.size_of[f] for f in nodes.factors]
        place = torch.zeros(nodes.size, dtype=torch.int64)
        fixed = [f for f in nodes.factors if not self.graph.factors[f].is_free]
        if not fixed:
            return place - 1
        for f, k in zip(nodes.factors, _unravel(nodes.size, sizes), strict=True):
            if f in fixed:
                place = place * self.size_of[f] + k
        return place


def ancestors(graph: BlockGraph, factor: int) -> set[int]:
    """All factors that the permutation of a factor depends on, directly or not."""
    found: set[int] = set()
    queue = list(graph.factors[factor].parents)
    while queue:
        if (p := queue.pop()) not in found:
            found.add(p)
            queue += graph.factors[p].parents
    return found


def _unravel(count: int, sizes: Sequence[int]) -> list[Tensor]:
    """Index along each size of the numbers below ``count``, the last one fastest."""
    rest = torch.arange(count)
    out: list[Tensor] = []
    for size in reversed(sizes):
        out.append(rest % size if size else rest)
        rest = rest // size if size else rest
    return out[::-1]


def edge_list(graph: BlockGraph) -> EdgeList:
    """The nodes and edges of a graph, made once and kept on it."""
    return kept(graph, "edge list", lambda: _built(graph))


def _built(graph: BlockGraph) -> EdgeList:
    builder = _Builder(graph)
    for number, block in enumerate(graph.blocks):
        builder.block(number, block)
    builder.links()
    builder.heads()
    return builder.finish()
