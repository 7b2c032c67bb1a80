"""Torch's operators, the pass over edges tile by tile: for GPUs, and CPUs without a compiler.

Tiles stay in the cache; nothing is kept for the backward pass but the inputs. Shapes of the two
halves are those of :mod:`gmn_opt.metanet.backends` with one leading dimension ``batch``.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from gmn_opt.metanet.backends.fused import Fused, batched, unbatched
from gmn_opt.metanet.backends.plain import Messages, gather, pool
from gmn_opt.metanet.layout import Sizes

__all__ = ["backward", "edge_pass", "forward", "gather", "pool"]

#: Bytes of one intermediate of a tile; a few of them must fit into a core's cache.
TILE_BYTES = 1 << 20


def edge_pass(
    sizes: Sizes,
    keep_edges: bool,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
) -> Messages:
    """See :mod:`gmn_opt.metanet.backends`."""
    given = batched(x, weight, residual, src, dst)
    return unbatched(Fused.apply(sys.modules[__name__], sizes, keep_edges, *given), x.shape[:-2])


class _Segment(NamedTuple):
    """Some rows of a block within a tile: (start, length) in the tile, in ``dst`` and ``src``."""

    block: int
    shape: tuple[int, int]
    here: tuple[int, int]
    dst: tuple[int, int]
    src: tuple[int, int]


class _Tile(NamedTuple):
    """(start, length) of networks and edges that are worked on together."""

    batch: tuple[int, int]
    edges: tuple[int, int]
    segments: tuple[_Segment, ...]

    @property
    def networks(self) -> int:
        return self.batch[1]

    @property
    def width(self) -> int:
        return self.edges[1]

    def of(self, *tensors: Tensor) -> list[Tensor]:
        """The networks of this tile."""
        if all(self.batch[1] == len(t) for t in tensors):
            return list(tensors)
        return [t.narrow(0, *self.batch) for t in tensors]


@lru_cache(maxsize=256)
def _tiles(sizes: Sizes, batch: int, bytes_per_edge: int, limit: int) -> tuple[_Tile, ...]:
    """Cut ``batch`` networks of blocks of ``sizes`` into tiles of about ``limit`` bytes."""
    edges = max(1, limit // bytes_per_edge)
    runs: list[list[_Segment]] = [[]]
    filled = first_dst = first_src = 0
    for block, (d, e) in enumerate(sizes):
        src = (first_src, e)
        row = 0
        while row < d:
            if filled and filled + e > edges:
                runs.append([])
                filled = 0
            rows = max(1, min(d - row, (edges - filled) // e))
            dst, here = (first_dst + row, rows), (filled, rows * e)
            runs[-1].append(_Segment(block, (rows, e), here, dst, src))
            filled += rows * e
            row += rows
        first_dst += d
        first_src += e
    networks = max(1, edges // max(filled, 1)) if len(runs) == 1 else 1
    networks = max(1, -(-batch // max(1, -(-batch // networks))))  # tiles of equal size
    found, start = [], 0
    for run in runs:
        width = sum(run[-1].here)
        for b in range(0, batch, networks):
            taken = (b, min(networks, batch - b))
            found.append(_Tile(taken, (start, width), tuple(run)))
        start += width
    return tuple(found)


def _cut(sizes: Sizes, x: Tensor, channels: int) -> tuple[tuple[_Tile, ...], int]:
    """Tiles, and the most edges that one of them holds over its networks."""
    per_edge = channels * x.element_size()
    # a GPU wants few launches
    limit = TILE_BYTES if x.device.type == "cpu" else x.shape[0] * x.shape[-1] * per_edge
    tiles = _tiles(sizes, x.shape[0], per_edge, limit)
    return tiles, max((t.networks * t.width for t in tiles), default=0)


class _Scratch:
    """Buffers for the intermediates of one tile, written again by the next.

    Fresh ones would be mapped and faulted in by the system at every operator.
    """

    def __init__(self, like: Tensor, elements: int, count: int) -> None:
        self.flat = [like.new_empty(elements) for _ in range(count)]

    def views(self, *shape: int) -> list[Tensor]:
        """All buffers as contiguous tensors of ``shape``."""
        return [t[: prod(shape)].view(shape) for t in self.flat]


def _mix(out: Tensor, weight: Tensor, x: Tensor, tile: _Tile) -> Tensor:
    """``weight`` times the channels of ``x`` [b, g, n], into ``out`` [b, f, n]."""
    if weight.dim() == 2:
        return torch.bmm(weight.expand(len(x), -1, -1), x, out=out)
    (weight,) = tile.of(weight)
    for s in tile.segments:
        torch.bmm(weight[:, s.block], x.narrow(-1, *s.here), out=out.narrow(-1, *s.here))
    return out


@lru_cache(maxsize=256)
def _repetition(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """0/1 matrix ``[D, D * E]`` that repeats every row E times."""
    return torch.eye(shape[0], dtype=dtype, device=device).repeat_interleave(shape[1], 1)


def _is_narrow(shape: tuple[int, int]) -> bool:
    # elementwise operators crawl where the inner axis has two or three elements
    return 1 < shape[1] < 8 and 1 < shape[0] <= 64


def _over_columns(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[b, f, D]`` so that it can be added to ``[b, f, D, E]``."""
    if not _is_narrow(shape):
        return rows.unsqueeze(-1)
    return (rows @ _repetition(shape, rows.dtype, rows.device)).unflatten(-1, shape)


def _hidden(
    out: Tensor, weight: Tensor, x: Tensor, src: Tensor, dst: Tensor, tile: _Tile
) -> list[Tensor]:
    """``W x + src + dst`` of a tile, into ``out`` [b, f, n]; its segments as [b, f, rows, E]."""
    _mix(out, weight, x, tile)
    views = []
    for s in tile.segments:
        z = out.narrow(-1, *s.here).unflatten(-1, s.shape)
        z += src.narrow(-1, *s.src).unsqueeze(-2)
        z += _over_columns(dst.narrow(-1, *s.dst), s.shape)
        views.append(z)
    return views


def _add_sums(views: list[Tensor], rows: Tensor, columns: Tensor, tile: _Tile) -> None:
    """Write sums over the columns of every segment into ``rows``, add those over its rows."""
    for s, view in zip(tile.segments, views, strict=True):
        if _is_narrow(s.shape):
            repeated = _repetition(s.shape, view.dtype, view.device)
            rows.narrow(-1, *s.dst).copy_(view.flatten(-2) @ repeated.T)
        else:
            torch.sum(view, -1, out=rows.narrow(-1, *s.dst))
        columns.narrow(-1, *s.src).add_(view.sum(-2))


def _lengths(sizes: Sizes, like: Tensor) -> tuple[Tensor, Tensor]:
    """What sums over columns and over rows must be divided by: ``[sum of D]``, ``[sum of E]``."""
    per_row = like.new_tensor([e for d, e in sizes for _ in range(d)])
    per_column = like.new_tensor([d for d, e in sizes for _ in range(e)])
    return per_row, per_column


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.mT`` for ``a`` [B, f, n] and ``b`` [B, g, n] with n large."""
    if a.device.type == "cuda" or b.shape[-2] <= 8:
        return torch.bmm(a, b.mT)
    # MKL takes three times longer over a long inner dimension that is contiguous in both; turning
    # ``b`` by a product with the identity is the fastest way to turn it
    eye = torch.eye(b.shape[-2], dtype=b.dtype).expand(len(b), -1, -1)
    return torch.bmm(a, torch.bmm(b.mT, eye))


def _add_outer(into: Tensor, a: Tensor, b: Tensor, tile: _Tile) -> None:
    """Add the gradient ``a b^T`` of a weight; ``into`` is [B, f, g] or [B, blocks, f, g]."""
    (into,) = tile.of(into)
    if into.dim() == 3:
        into += _outer(a, b)
        return
    for s in tile.segments:
        into[:, s.block] += _outer(a.narrow(-1, *s.here), b.narrow(-1, *s.here))


def forward(
    sizes: Sizes,
    keep_edges: bool,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """New edge states (None without ``keep_edges``), means at destinations and at sources."""
    f = weight.shape[-2]
    new = x.new_empty(len(x), f, x.shape[-1]) if keep_edges else None
    at_dst, at_src = torch.empty_like(dst), torch.zeros_like(src)
    # silu(z) = z/2 + z/2 tanh(z/2); torch's own silu takes several times longer on a CPU
    half_weight, half_src, half_dst = weight / 2, src / 2, dst / 2
    tiles, most = _cut(sizes, x, f)
    scratch = _Scratch(x, most * f, 2)
    for tile in tiles:
        part, t_src, t_dst, rows, columns = tile.of(x, half_src, half_dst, at_dst, at_src)
        part = part.narrow(-1, *tile.edges)
        h, other = scratch.views(tile.networks, f, tile.width)
        views = _hidden(h, half_weight, part, t_src, t_dst, tile)
        h.addcmul_(h, torch.tanh(h, out=other))
        _add_sums(views, rows, columns, tile)
        if new is not None:
            kept = part if residual is None else _mix(other, residual, part, tile)
            torch.add(kept, h, out=tile.of(new)[0].narrow(-1, *tile.edges))
    per_row, per_column = _lengths(sizes, x)
    at_dst /= per_row
    at_src /= per_column
    return new, at_dst, at_src


def backward(
    sizes: Sizes,
    inputs: tuple[Tensor, ...],
    needed: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight, residual, src and dst, those not needed perhaps None.

    ``grads`` are those of the outputs of :func:`forward`, None for zero.
    """
    x, weight, residual, src, dst = inputs
    new, at_dst, at_src = grads
    batch, g, f = x.shape[0], x.shape[1], weight.shape[-2]
    g_x = torch.empty_like(x) if needed[0] else None
    weight_shape = (batch, *weight.shape[-3:]) if weight.dim() > 2 else (batch, f, g)
    g_weight = x.new_zeros(weight_shape)
    g_residual = None if residual is None else x.new_zeros(weight_shape)
    g_src, g_dst = torch.zeros_like(src), torch.empty_like(dst)
    per_row, per_column = _lengths(sizes, x)
    at_dst = torch.zeros_like(dst) if at_dst is None else at_dst / per_row
    at_src = torch.zeros_like(src) if at_src is None else at_src / per_column
    tiles, most = _cut(sizes, x, f)
    scratch = _Scratch(x, most * max(f, g), 2)
    for tile in tiles:
        part, t_src, t_dst, rows, columns = tile.of(x, src, dst, at_dst, at_src)
        part = part.narrow(-1, *tile.edges)
        g_z, g_h = scratch.views(tile.networks, f, tile.width)
        views = _hidden(g_z, weight, part, t_src, t_dst, tile)
        above = None if new is None else tile.of(new)[0].narrow(-1, *tile.edges)
        for s in tile.segments:
            row = _over_columns(rows.narrow(-1, *s.dst), s.shape)
            column = columns.narrow(-1, *s.src).unsqueeze(-2)
            out = g_h.narrow(-1, *s.here).unflatten(-1, s.shape)
            if above is None:
                torch.add(row, column, out=out)
            else:
                torch.add(above.narrow(-1, *s.here).unflatten(-1, s.shape), row, out=out)
                out += column
        torch.ops.aten.silu_backward.grad_input(g_h, g_z, grad_input=g_z)
        rows, columns = tile.of(g_dst, g_src)
        _add_sums(views, rows, columns, tile)
        _add_outer(g_weight, g_z, part, tile)
        if g_residual is not None and above is not None:
            _add_outer(g_residual, above, part, tile)
        if g_x is None:
            continue
        back, other = scratch.views(tile.networks, g, tile.width)[::-1]
        _mix(back, weight.mT, g_z, tile)
        if above is not None:  # g_z has served; its buffer is free
            back += above if residual is None else _mix(other, residual.mT, above, tile)
        tile.of(g_x)[0].narrow(-1, *tile.edges).copy_(back)
    if weight.dim() == 2:
        g_weight = g_weight.sum(0)
        g_residual = None if g_residual is None else g_residual.sum(0)
    return g_x, g_weight, g_residual, g_src, g_dst
