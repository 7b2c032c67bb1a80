"""What a predictor reads of a network besides its weights one by one.

All of it is invariant (or, per node, equivariant) to the symmetries of the graph, and stays of one
order when layers grow wider: weights are seen as multiples of ``1 / sqrt(fan_in)``, the scale at
which a layer keeps the size of its signals, and statistics are logs and ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmn_opt.metanet import blocked
from gmn_opt.metanet.incidence import incidence_of

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph

_TINY = 1e-6
_LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
#: Singular values of blocks with more elements than this are left out of the statistics.
_SPECTRUM = 100_000
_POOL = 4

BLOCK_STATISTICS = 10 + len(_LEVELS)
NODE_STATISTICS = 4
GRAPH_STATISTICS = _POOL * BLOCK_STATISTICS + 2


def edge_factors(graph: ParameterGraph) -> list[float]:
    """The square root of every block's fan-in; 1 for biases, scales and shifts."""
    sizes = blocked(graph).sizes
    return [1.0 if b else float(e) ** 0.5 for b, (_, e) in zip(biases(graph), sizes, strict=True)]


def biases(graph: ParameterGraph) -> list[bool]:
    """Of every block, whether it comes from a bias node."""
    return [graph.groups[b.block.src].role == "bias" for b in blocked(graph).blocks]


def edges_of(graph: ParameterGraph, blocks: Sequence[Tensor]) -> Tensor:
    """Edge features ``[n, 1, P]``: weights times the root of their fan-in, softly bounded."""
    parts = [
        torch.asinh(w * a).flatten(-2) for w, a in zip(blocks, edge_factors(graph), strict=True)
    ]
    return torch.cat(parts, -1).unsqueeze(-2)


def block_statistics(graph: ParameterGraph, blocks: Sequence[Tensor]) -> Tensor:
    """``[n, blocks, BLOCK_STATISTICS]`` from one ``[n, D, E]`` per block.

    Log of scale, mean, skew and tails relative to it, quantiles relative to it, how unequal rows
    and columns are, the largest singular value and how many there are that count.
    """
    rows = []
    for w, factor in zip(blocks, edge_factors(graph), strict=True):
        scaled = w * factor
        flat = scaled.flatten(-2)
        rms = flat.square().mean(-1).sqrt() + _TINY
        mean = flat.mean(-1)
        centred = flat - mean.unsqueeze(-1)
        std = centred.square().mean(-1).sqrt() + _TINY
        shape = (centred / std.unsqueeze(-1)).clamp(-10, 10)
        fourth = shape.pow(4).mean(-1)
        levels = torch.tensor(_LEVELS, dtype=flat.dtype, device=flat.device)
        quantiles = (flat.quantile(levels, -1) / rms).movedim(0, -1)
        by_row = (scaled.square().mean(-1).sqrt() + _TINY).log()
        by_column = (scaled.square().mean(-2).sqrt() + _TINY).log()
        statistics = [
            rms.log(), mean / rms, torch.asinh(mean), std.log(), shape.pow(3).mean(-1),
            torch.where(fourth > 0, fourth, 1.0).log(),  # no tails where all are equal
            by_row.std(-1, correction=0), by_column.std(-1, correction=0), *_spectrum(w),
        ]  # fmt: skip
        rows.append(torch.cat([torch.stack(statistics, -1), torch.asinh(quantiles)], -1))
    return torch.stack(rows, -2)


def _spectrum(w: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the largest singular value and of the stable rank, ``[n]`` each."""
    d, e = w.shape[-2:]
    squares = w.square().sum((-1, -2))
    if min(d, e) == 1 or d * e > _SPECTRUM:
        top = squares if min(d, e) == 1 else squares / min(d, e)
    else:
        gram = w @ w.mT if d <= e else w.mT @ w
        top = torch.linalg.eigvalsh(gram)[..., -1]
    top = top.clamp_min(0) + _TINY**2
    return top.log() / 2, ((squares + _TINY**2) / top).log()


def node_statistics(graph: ParameterGraph, blocks: Sequence[Tensor]) -> Tensor:
    """``[n, N, NODE_STATISTICS]``: log sizes of incoming weights, outgoing ones, bias; its sign.

    Zero for what a neuron does not have.
    """
    like = blocks[0]
    incidence = incidence_of(graph, like)
    rows, columns = [], []
    for is_bias, w, factor in zip(biases(graph), blocks, edge_factors(graph), strict=True):
        squares = (w * factor).square()
        into, out = squares.mean(-1), squares.mean(-2)
        weight, bias = float(not is_bias), float(is_bias)
        given = torch.ones_like(into)
        row = (into * weight, given * weight, into * bias, w.mean(-1) * bias, given * bias)
        rows.append(torch.stack(row, -1))
        columns.append(torch.stack((out * weight, torch.ones_like(out) * weight), -1))
    # means over all blocks that meet in a node; divided by the share of those that count
    into = incidence.from_destinations(torch.cat(rows, -2))
    out = incidence.from_sources(torch.cat(columns, -2))

    def mean(of: Tensor, share: Tensor) -> Tensor:
        return of / torch.where(share > 0, share, 1.0)

    def size(of: Tensor, share: Tensor) -> Tensor:
        return (mean(of, share) + _TINY**2).log() / 2 * (share > 0)

    return torch.stack(
        [
            size(into[..., 0], into[..., 1]),
            size(out[..., 0], out[..., 1]),
            size(into[..., 2], into[..., 4]),
            torch.asinh(mean(into[..., 3], into[..., 4])),
        ],
        -1,
    )


def graph_statistics(graph: ParameterGraph, statistics: Tensor) -> Tensor:
    """``[n, GRAPH_STATISTICS]``: the blocks' statistics pooled, and the sizes of the network.

    Means over all weights, over all biases, of the first block of weights and of the last.
    """
    bias = biases(graph)
    weights = [i for i, b in enumerate(bias) if not b] or list(range(len(bias)))
    shifts = [i for i, b in enumerate(bias) if b]
    empty = torch.zeros_like(statistics[..., 0, :])
    parts = [
        statistics[..., weights, :].mean(-2),
        statistics[..., shifts, :].mean(-2) if shifts else empty,
        statistics[..., weights[0], :],
        statistics[..., weights[-1], :],
    ]
    sizes = statistics.new_tensor(
        [float(len(weights)), float(sum(blocked(graph).edge_counts))]
    ).log()
    return torch.cat([*parts, sizes.expand(len(statistics), -1)], -1)
