"""What a predictor is told of a network besides its weights one by one.

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
    layout = blocked(graph)
    roots = []
    for block, (_, fan_in) in zip(layout.blocks, layout.sizes, strict=True):
        is_bias = graph.groups[block.block.src].role == "bias"
        roots.append(1.0 if is_bias else float(fan_in) ** 0.5)
    return roots


def edges_of(graph: ParameterGraph, blocks: Sequence[Tensor]) -> Tensor:
    """Edge features ``[n, 1, P]``: weights times the root of their fan-in, softly bounded."""
    parts = [
        torch.asinh(w * a).flatten(-2)
        for w, a in zip(blocks, edge_factors(graph), strict=True)
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
        levels = torch.tensor(_LEVELS, dtype=flat.dtype, device=flat.device)
        quantiles = (flat.quantile(levels, -1) / rms).movedim(0, -1)
        by_row = (scaled.square().mean(-1).sqrt() + _TINY).log()
        by_column = (scaled.square().mean(-2).sqrt() + _TINY).log()
        statistics = [
            rms.log(), mean / rms, torch.asinh(mean), std.log(), shape.pow(3).mean(-1),
            shape.pow(4).mean(-1).log(),
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
    layout = blocked(graph)
    n = blocks[0].shape[0]
    like = blocks[0]
    sums = [like.new_zeros(n, size, 4) for size in layout.group_sizes]
    counts = [like.new_zeros(size, 3) for size in layout.group_sizes]
    for block, w, factor in zip(layout.blocks, blocks, edge_factors(graph), strict=True):
        bias = graph.groups[block.block.src].role == "bias"
        scaled = w * factor
        seen = scaled.square().mean(-1)
        place = 2 if bias else 0
        there = block.dst.coverage().to(like)
        sums[block.dst.group][..., place] += block.dst.write(seen)
        counts[block.dst.group][..., place] += there
        if bias:
            sums[block.dst.group][..., 3] += block.dst.write(w.mean(-1))
            continue
        out = block.pool_src(scaled.square().mean(-2))
        sums[block.src.group][..., 1] += block.src.write(out)
        counts[block.src.group][..., 1] += block.src.coverage().to(like)
    parts = []
    for total, count in zip(sums, counts, strict=True):
        mean = total[..., :3] / count.clamp_min(1)
        logs = (mean + _TINY**2).log() / 2 * (count > 0)
        parts.append(torch.cat([logs, torch.asinh(total[..., 3:])], -1))
    return torch.cat(parts, -2)


def graph_statistics(graph: ParameterGraph, statistics: Tensor) -> Tensor:
    """``[n, GRAPH_STATISTICS]``: the blocks' statistics pooled, and the sizes of the network.

    Means over all weights, over all biases, of the first block of weights and of the last.
    """
    layout = blocked(graph)
    bias = [graph.groups[b.block.src].role == "bias" for b in layout.blocks]
    weights = [i for i, b in enumerate(bias) if not b] or list(range(len(bias)))
    biases = [i for i, b in enumerate(bias) if b]
    empty = torch.zeros_like(statistics[..., 0, :])
    parts = [
        statistics[..., weights, :].mean(-2),
        statistics[..., biases, :].mean(-2) if biases else empty,
        statistics[..., weights[0], :],
        statistics[..., weights[-1], :],
    ]
    sizes = statistics.new_tensor([float(len(weights)), float(sum(layout.edge_counts))]).log()
    return torch.cat([*parts, sizes.expand(len(statistics), -1)], -1)
