"""Structural features: what a graph metanetwork knows of a graph before it sees any value.

Only what a permutation of free factors leaves in place may enter (Lim et al. 2023, section 3):
kinds, sizes, depth, activations, heads, strides, kernel positions, and the index of nodes that are
fixed anyway (inputs and outputs).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmn_opt.metanet.kept import kept
from gmn_opt.metanet.layout import BlockedGraph, BlockLayout, blocked

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph

_ROLES = ("input", "hidden", "output", "bias")
_KINDS = ("linear", "conv", "embedding", "bias", "scale", "shift", "other")
_ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "sin", "softmax")
_FREQUENCIES = 4

NODE_FEATURES = len(_ROLES) + len(_ACTIVATIONS) + 3 + 2 * _FREQUENCIES + 3
BLOCK_FEATURES = len(_KINDS) + 5 + 4
KERNEL_FEATURES = 3
#: Of nodes and of blocks, the features that change when groups grow wider.
_NODE_SIZES = [len(_ROLES) + len(_ACTIVATIONS) + 1, NODE_FEATURES - 3]
_BLOCK_SIZES = [len(_KINDS), len(_KINDS) + 1]

#: See :func:`structural`.
Structural = tuple[Tensor, Tensor, Tensor | None]


def structural(graph: ParameterGraph, like: Tensor, sizes: bool = True) -> Structural:
    """Structural features of ``graph`` in the dtype and device of ``like``, kept on the graph.

    Of nodes ``[N, NODE_FEATURES]``, blocks ``[blocks, BLOCK_FEATURES]`` and kernel positions
    ``[KERNEL_FEATURES, sum of E]`` (None where no block has any). Without ``sizes``, those that
    change when groups grow wider are zero.
    """
    dtype, device = like.dtype, like.device

    def made() -> Structural:
        nodes, blocks = torch.cat(node_features(graph)), block_features(graph)
        kernels = kernel_features(blocked(graph))
        if not sizes:
            nodes[:, _NODE_SIZES] = 0
            blocks[:, _BLOCK_SIZES] = 0
        return (
            nodes.to(device, dtype),
            blocks.to(device, dtype),
            None if kernels is None else kernels.to(device, dtype),
        )

    return kept(graph, ("structural", dtype, device, sizes), made)


def _log_size(size: int) -> float:
    """Log of a size, centred on 64 and of order one."""
    return math.log(max(size, 1) / 64.0) / 3.0


def depths(graph: ParameterGraph) -> list[float]:
    """Relative depth of every group: 0 at the inputs, 1 at the outputs, 0.5 if not connected."""
    forward: dict[int, set[int]] = {g.id: set() for g in graph.groups}
    for block in graph.blocks:
        if graph.groups[block.src].role != "bias":
            forward[block.src].add(block.dst)
    for link in graph.links:
        forward[link.src].add(link.dst)
    backward: dict[int, set[int]] = {g.id: set() for g in graph.groups}
    for src, targets in forward.items():
        for dst in targets:
            backward[dst].add(src)

    def distance(neighbours: dict[int, set[int]], start: list[int]) -> dict[int, int]:
        reached = dict.fromkeys(start, 0)
        queue = list(start)
        for node in queue:
            for other in neighbours[node]:
                if other not in reached:
                    reached[other] = reached[node] + 1
                    queue.append(other)
        return reached

    from_input = distance(forward, [g.id for g in graph.groups if g.role == "input"])
    to_output = distance(backward, [g.id for g in graph.groups if g.role == "output"])
    out = []
    for group in graph.groups:
        a, b = from_input.get(group.id), to_output.get(group.id)
        out.append(a / (a + b) if a is not None and b is not None and a + b > 0 else 0.5)
    return out


def _sinusoids(size: int) -> Tensor:
    position = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    angle = position[:, None] * math.pi * 2.0 ** torch.arange(_FREQUENCIES, dtype=torch.float64)
    return torch.cat([angle.sin(), angle.cos()], -1)


def node_features(graph: ParameterGraph) -> list[Tensor]:
    """One float64 tensor ``[N, NODE_FEATURES]`` per group."""
    depth = depths(graph)
    free = {f.id for f in graph.factors if f.is_free}
    weights = [b for b in graph.blocks if graph.groups[b.src].role != "bias"]
    written, read = Counter(b.dst for b in weights), Counter(b.src for b in weights)
    out = []
    for group, size in zip(graph.groups, blocked(graph).group_sizes, strict=True):
        row = [float(group.role == r) for r in _ROLES]
        row += [float((group.activation or "").startswith(a)) for a in _ACTIVATIONS]
        row += [float(group.activation is not None), _log_size(size), depth[group.id]]
        known = torch.tensor(row, dtype=torch.float64).expand(size, -1)
        if group.role in ("input", "output") and not free.intersection(group.factors):
            place = _sinusoids(size)
        else:
            place = known.new_zeros(size, 2 * _FREQUENCIES)
        # a residual stream is written and read by many
        row = [math.log(math.prod(p.size for p in graph.parents_of(group))) / 3.0]
        row += [math.log1p(n[group.id]) / 3.0 for n in (written, read)]
        meetings = torch.tensor(row, dtype=torch.float64).expand(size, -1)
        out.append(torch.cat([known, place, meetings], -1))
    return out


def block_features(graph: ParameterGraph) -> Tensor:
    """Float64 tensor ``[blocks, BLOCK_FEATURES]``."""
    depth = depths(graph)
    rows = []
    for layout in blocked(graph).blocks:
        block = layout.block
        d, s, k = layout.size
        row = [float(block.kind == kind) for kind in _KINDS]
        row += [_log_size(d), _log_size(s), math.log(k) / 3.0]
        is_bias = graph.groups[block.src].role == "bias"
        row += [depth[block.dst] if is_bias else depth[block.src], depth[block.dst]]
        of_conv = (block.attributes.get(a, 1.0) for a in ("stride", "dilation", "groups"))
        row += [math.log(max(a, 1.0)) / 3.0 for a in of_conv]
        row.append(float(block.attributes.get("transposed", 0.0)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def kernel_features(layout: BlockedGraph) -> Tensor | None:
    """Kernel positions, ``[KERNEL_FEATURES, sum of E]``; None where no block has any."""
    found = [_kernel_positions(block) for block in layout.blocks]
    if all(f is None for f in found):
        return None
    rows = [
        torch.zeros(block.fan_in, KERNEL_FEATURES, dtype=torch.float64) if f is None else f
        for block, f in zip(layout.blocks, found, strict=True)
    ]
    return torch.cat(rows).T.contiguous()


def _kernel_positions(layout: BlockLayout) -> Tensor | None:
    """Kernel positions of a block's edges, ``[E, KERNEL_FEATURES]``; None where there are none.

    The last two kernel factors are read as (row, column) in [-1, 1], beside their squared radius.
    A factor that may be permuted has no positions: its coordinate is 0.
    """
    sizes = zip(layout.kernel, layout.kernel_fixed, strict=True)
    if math.prod(n for n, fixed in sizes if fixed) == 1:
        return None
    axes = [
        torch.linspace(-1, 1, n, dtype=torch.float64)
        if fixed and n > 1
        else torch.zeros(n, dtype=torch.float64)
        for n, fixed in zip(layout.kernel, layout.kernel_fixed, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    yx = grid[:, -2:] if grid.shape[1] > 1 else torch.cat([torch.zeros_like(grid), grid], 1)
    coordinates = torch.cat([yx, yx.square().sum(1, keepdim=True)], 1)
    return coordinates.repeat(layout.src.size, 1)
