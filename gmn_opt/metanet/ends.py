"""Between nodes and the two ends of every block, in the layouts that both sides want.

Node states are rows of channels, ``[..., N, c]``, as linear layers take them; the ends of blocks,
"rows" (destinations, D of all blocks) and "columns" (sources, E of all), are channels first, as the
pass over edges takes them. Going from one to the other is linear and constant:

    spread:  pairs [..., N, 2 f], per_block [..., blocks, f]  ->  dst [..., f, D], src [..., f, E]
    collect: dst [..., f, D], src [..., f, E]  ->  pairs [..., N, 2 f], per_block [..., blocks, f]

with pairs being what nodes are (or get) as destinations before what they are as sources. Spreading
gives every end its node's value, and rows the one of their block on top; collecting takes means
over the blocks that meet in a node, and over the rows of a block. :class:`RoutedEnds` does it by
:mod:`gmn_opt.metanet.routes`; :class:`NativeEnds` as native code, with sparse matrices. Each of the
two is the other's derivative, with transposed matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from gmn_opt.metanet import native
from gmn_opt.metanet.native import operators
from gmn_opt.metanet.native.parts import is_served
from gmn_opt.metanet.native.route_calls import Matrices
from gmn_opt.metanet.once import made_once
from gmn_opt.metanet.routes import Routes

if TYPE_CHECKING:
    from gmn_opt.metanet.layout import BlockedGraph, Endpoint

#: Rows, columns and values of the entries of a matrix, all of one length, and the matrix's shape.
Entries = tuple[Tensor, Tensor, Tensor, tuple[int, int]]


class Ends(Protocol):
    """See the module."""

    def spread(self, pairs: Tensor, per_block: Tensor) -> tuple[Tensor, Tensor]:
        """(dst, src)."""
        ...

    def collect(self, dst: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
        """(pairs, per_block)."""
        ...


class RoutedEnds:
    """On torch's operators."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes

    def spread(self, pairs: Tensor, per_block: Tensor) -> tuple[Tensor, Tensor]:
        """See the module."""
        as_dst, as_src = pairs.mT.chunk(2, -2)
        dst = self.routes.rows(as_dst) + self.routes.rows_of_blocks(per_block.mT)
        return dst, self.routes.columns(as_src)

    def collect(self, dst: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
        """See the module."""
        pairs = torch.cat([self.routes.from_rows(dst), self.routes.from_columns(src)], -2)
        return pairs.mT, self.routes.block_mean(dst).mT


@dataclass(frozen=True)
class NativeEnds:
    """As native code: ``sizes`` are N, blocks, D and E.

    ``out`` and ``out_back`` are the matrices of `spread` and of its derivative, ``back`` and
    ``back_back`` those of `collect`.
    """

    sizes: tuple[int, int, int, int]
    out: Matrices
    out_back: Matrices
    back: Matrices
    back_back: Matrices

    @staticmethod
    def of(layout: BlockedGraph, dtype: torch.dtype) -> NativeEnds:
        """Those of a graph."""
        out, back = _entries(layout)
        made = [
            Matrices.of([(row, column, value, shape[0]) for row, column, value, shape in m], dtype)
            for m in (out, _turned(out), back, _turned(back))
        ]
        d, e = (sum(size) for size in zip(*layout.sizes, strict=True))
        sizes = (sum(layout.group_sizes), len(layout.blocks), d, e)
        return NativeEnds(sizes, *made)

    def spread(self, pairs: Tensor, per_block: Tensor) -> tuple[Tensor, Tensor]:
        """See the module."""
        return self._run("spread", self.out, self.out_back, pairs, per_block)

    def collect(self, dst: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
        """See the module."""
        return self._run("collect", self.back, self.back_back, dst, src)

    def _run(
        self, way: str, matrices: Matrices, backward: Matrices, *given: Tensor
    ) -> tuple[Tensor, Tensor]:
        lead = given[0].shape[:-2]
        first, second = (t.expand(*lead, *t.shape[-2:]).reshape(-1, *t.shape[-2:]) for t in given)
        if torch.compiler.is_compiling():
            numbers = (matrices.numbers, matrices.values, backward.numbers, backward.values)
            found = operators.route(way, *numbers, list(self.sizes), first, second)
        else:
            found = _Native.apply(way, matrices, backward, self.sizes, first, second)
        a, b = (t.view(*lead, *t.shape[1:]) for t in found)
        return a, b


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, way: str, matrices: Matrices, backward: Matrices, sizes: Any, *given: Any
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.same = (way, matrices, sizes)
        ctx.other = (operators.OTHER_WAY[way], backward, matrices, sizes)
        return _run(*ctx.same, *given)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in grads):
            return (None,) * 6
        found = zip(_Native.apply(*ctx.other, *grads), ctx.needs_input_grad[4:], strict=True)
        return (None,) * 4 + tuple(g if needed else None for g, needed in found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        return _run(*ctx.same, *tangents[4:])


def _run(way: str, matrices: Matrices, sizes: Any, *given: Tensor | None) -> Any:
    kernel = native.kernel()
    assert kernel is not None
    return kernel.routes.run(way, matrices, sizes, *given)


class EndTable:
    """The ends of a graph, for every dtype they were asked for."""

    def __init__(self, layout: BlockedGraph) -> None:
        self.layout = layout
        self._made: dict[torch.dtype, NativeEnds] = {}

    def get(self, like: Tensor) -> Ends:
        """For tensors like ``like``, in the way that suits the circumstances.

        Transforms of ``torch.func`` and autocast cannot see into native code.
        """
        if not self.layout.sizes or not _is_native(like):
            return RoutedEnds(self.layout.routes.get(like))
        if like.dtype not in self._made:
            self._make(like.dtype)
        return self._made[like.dtype]

    @made_once
    def _make(self, dtype: torch.dtype) -> None:
        with torch.inference_mode(False), torch.device("cpu"):
            self._made[dtype] = NativeEnds.of(self.layout, dtype)


def _is_native(like: Tensor) -> bool:
    if operators.is_hidden(like):
        return False
    if torch.compiler.is_compiling():
        return operators.compiles(like)
    return native.kernel() is not None and is_served(like)


# ----------------------------------------------------------------------------------- matrices


def _turned(matrices: list[Entries]) -> list[Entries]:
    return [(column, row, value, shape[::-1]) for row, column, value, shape in matrices]


def _entries(layout: BlockedGraph) -> tuple[list[Entries], list[Entries]]:
    """Matrices of spreading and of collecting, each for rows, columns and blocks."""
    heights = torch.tensor([d for d, _ in layout.sizes])
    blocks, rows = len(heights), int(heights.sum())
    block_of = torch.arange(blocks).repeat_interleave(heights)
    row, ones = torch.arange(rows), torch.ones(rows, dtype=torch.float64)
    to_rows, from_rows = _side(layout, [(b.dst, 1) for b in layout.blocks])
    to_columns, from_columns = _side(layout, [(b.src, prod(b.kernel)) for b in layout.blocks])
    out = [to_rows, to_columns, (row, block_of, ones, (rows, blocks))]
    means = 1 / heights.double()[block_of]
    return out, [from_rows, from_columns, (block_of, row, means, (blocks, rows))]


def _side(layout: BlockedGraph, ends: list[tuple[Endpoint, int]]) -> tuple[Entries, Entries]:
    """From nodes to one side of all blocks and back; every end with its parallel edges.

    An end that stands for several nodes (one scale for all heads, say) gets their mean. A node gets
    the mean over blocks of the mean over parallel edges.
    """
    nodes = sum(layout.group_sizes)
    begin = torch.tensor([0, *layout.group_sizes]).cumsum(0).tolist()
    meetings = torch.zeros(nodes, dtype=torch.float64)
    found: list[tuple[Tensor, ...]] = []
    first = 0
    for end, parallel in ends:
        place = end.write(torch.arange(1, end.size + 1)) - 1
        node = (place >= 0).nonzero().squeeze(1)
        place, node = place[node], node + begin[end.group]
        meetings[node] += 1
        share = 1 / place.bincount(minlength=end.size).double()[place]
        edges = place.unsqueeze(1) * parallel + torch.arange(parallel)
        each = (node, share, torch.full_like(share, 1 / parallel))
        repeated = (t.repeat_interleave(parallel) for t in each)
        found.append((edges.flatten() + first, *repeated))
        first += end.size * parallel
    edge, node, share, part = (torch.cat(parts) for parts in zip(*found, strict=True))
    spread = (edge, node, share, (first, nodes))
    return spread, (node, edge, part / meetings[node], (nodes, first))
