"""Everything written down in torch's operators.

For transforms of ``torch.func`` and autocast, which see into nothing else; for compilers, which
fuse this best where there is no native code; and to hold the other backends to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import silu

from gmn_opt.metanet.incidence import Incidence
from gmn_opt.metanet.layout import Sizes

#: New edge states (None when not wanted), means at destinations and at sources.
Messages = tuple[Tensor | None, Tensor, Tensor]


def gather(
    incidence: Incidence, pairs: Tensor, per_block: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Values of nodes and blocks at the ends of blocks; see :mod:`gmn_opt.metanet.backends`."""
    as_dst, as_src = pairs.chunk(2, -1)
    dst = incidence.destinations(as_dst)
    if per_block is not None:
        dst = dst + incidence.blocks(per_block)
    return dst.mT, incidence.sources(as_src).mT


def pool(incidence: Incidence, dst: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
    """Means at the ends of blocks back at nodes and blocks."""
    rows = dst.mT
    pairs = [incidence.from_destinations(rows), incidence.from_sources(src.mT)]
    return torch.cat(pairs, -1), incidence.block_means(rows)


def mix(weight: Tensor, channels: Tensor) -> Tensor:
    """``weight`` [..., f, g] times ``channels`` [..., g, n], as one product per network.

    ``torch.matmul`` of a matrix and a batch turns the batch first, which costs a copy.
    """
    lead = channels.shape[:-2]
    if not lead:
        return weight @ channels
    f, g = weight.shape[-2:]
    flat = torch.bmm(
        weight.expand(*lead, f, g).reshape(-1, f, g), channels.reshape(-1, g, channels.shape[-1])
    )
    return flat.view(*lead, f, channels.shape[-1])


#: From the number of a block, its edges ``[..., g, P of the block]``, and states at its ends that
#: broadcast over ``[..., f, D, E]``, to new edge states and messages for either end.
Arithmetic = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor, Tensor]]


def over_blocks(
    sizes: Sizes, arithmetic: Arithmetic, x: Tensor, src: Tensor, dst: Tensor
) -> Messages:
    """New edge states of all blocks, and means of what each sends to its two ends."""
    new, at_dst, at_src = [], [], []
    parts = zip(
        x.split([d * e for d, e in sizes], -1),
        src.split([e for _, e in sizes], -1),
        dst.split([d for d, _ in sizes], -1),
        strict=True,
    )
    for i, (part, s, t) in enumerate(parts):
        made, to_dst, to_src = arithmetic(i, part, s.unsqueeze(-2), t.unsqueeze(-1))
        at_dst.append(to_dst.mean(-1))
        at_src.append(to_src.mean(-2))
        if made is not None:
            new.append(made)
    return torch.cat(new, -1) if new else None, torch.cat(at_dst, -1), torch.cat(at_src, -1)


def edge_pass(
    sizes: Sizes,
    keep_edges: bool,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
) -> Messages:
    """One pass over all edges, block by block."""

    def of_block(matrix: Tensor, i: int) -> Tensor:
        return matrix if matrix.dim() == 2 else matrix[..., i, :, :]

    def arithmetic(i: int, part: Tensor, s: Tensor, t: Tensor) -> Messages:
        h = silu(mix(of_block(weight, i), part).unflatten(-1, sizes[i]) + s + t)
        if not keep_edges:
            return None, h, h
        kept = part if residual is None else mix(of_block(residual, i), part)
        return kept + h.flatten(-2), h, h

    return over_blocks(sizes, arithmetic, x, src, dst)
