"""Steps between two thoughts: the rule's numbers, in fewer passes over memory.

Between two runs of the metanet the rule is a fixed combination of directions. Then nothing needs to
be flattened, batched or differentiated: the accumulators are updated in place, and every block's
directions are added up where they stand, by native code in one pass where there is some. The
numbers are those of ``LearnedRule.flat_update``, the reference, except that large matrices are
orthogonalized in bfloat16 where the hardware is made for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gmn_opt.kept import kept
from gmn_opt.metanet.native import kernel
from gmn_opt.optim.base import base_constants
from gmn_opt.optim.directions import CHANNELS, DECAYS, EPS, FAST, ORTHOGONAL
from gmn_opt.optim.orthogonalize import orthogonalize_all

if TYPE_CHECKING:
    from gmn_opt.metanet import BlockedGraph

_WEIGHT, _GRADIENT, _SLOW = (CHANNELS.index(name) for name in ("weight", "gradient", "slow"))
_known = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Trained:
    """A tensor of the graph in training.

    value: its weights, not written to; grad: in the dtype of the moments; moments: in the order of
    ``MOMENTS``, updated in place. All of the shape that the graph knows.
    """

    value: Tensor
    grad: Tensor
    moments: Sequence[Tensor]


@dataclass(frozen=True)
class _Piece:
    """What a block sees of its tensor, as views."""

    block: int
    value: Tensor
    grad: Tensor
    moments: list[Tensor]
    delta: Tensor


def is_sliced(layout: BlockedGraph) -> bool:
    """Whether all blocks are slices of their tensors, so that they can be written in place."""
    return kept(
        layout,
        "sliced",
        lambda: all(isinstance(part, range) for b in layout.blocks for part in b.block.index),
    )


def advance(
    layout: BlockedGraph,
    thought: Tensor,
    tensors: Mapping[str, Trained],
    step: int,
    horizon: int | None,
) -> dict[str, Tensor]:
    """What to add to each of ``tensors`` (at ``lr`` 1), and their moments after one more gradient.

    Args:
        layout: of the graph; it has to be :func:`is_sliced`.
        thought: flattened, of a rule without gains of neurons.
        tensors: by their names in the graph. The other names cost nothing.
        step: from 0.
        horizon: steps of the whole training, if known.
    """
    pieces, deltas = _pieces(layout, tensors)
    constants = base_constants(layout, thought)
    factors = constants.schedules(step, horizon)
    bias = [1 / (1 - d ** (step + 1)) for d in DECAYS]
    rows = _coefficients(thought)
    scaled = [[-factors[piece.block] * c for c in rows[piece.block]] for piece in pieces]
    ahead = _advance_native(pieces, scaled, bias)
    left = [i for i, made in enumerate(ahead) if made is None]
    if left:
        looks = _advance_plain([pieces[i] for i in left], [scaled[i] for i in left], bias)
        for i, look in zip(left, looks, strict=True):
            ahead[i] = look
    orthogonal = set(constants.orthogonal)
    chosen = [
        (piece, look)
        for piece, look in zip(pieces, ahead, strict=True)
        if look is not None and piece.block in orthogonal
    ]
    matrices = [layout.blocks[p.block].arrange(look) for p, look in chosen]
    directions = orthogonalize_all(matrices, fast=True, damped=True)
    for (piece, _), made in zip(chosen, directions, strict=True):
        direction = layout.blocks[piece.block].from_edges(made)
        alpha = -factors[piece.block] * rows[piece.block][ORTHOGONAL]
        piece.delta.add_(direction, alpha=alpha)
    return deltas


def _pieces(
    layout: BlockedGraph, tensors: Mapping[str, Trained]
) -> tuple[list[_Piece], dict[str, Tensor]]:
    pieces, deltas = [], {}
    for name, tensor in tensors.items():
        deltas[name] = torch.zeros_like(tensor.grad)
        for i in layout.blocks_of[name]:
            if layout.blocks[i].is_whole:
                views = tensor.value, tensor.grad, list(tensor.moments), deltas[name]
            else:
                where = layout.blocks[i].where(tensor.grad.device)
                moments = [m[where] for m in tensor.moments]
                views = tensor.value[where], tensor.grad[where], moments, deltas[name][where]
            pieces.append(_Piece(i, *views))
    return pieces, deltas


def _factors(row: Sequence[float], bias: Sequence[float]) -> list[float]:
    """What the native pass multiplies by; ``row``: the coefficients of the channels."""
    by_size = [row[_GRADIENT], row[FAST], row[_SLOW] * bias[1]]
    return [
        *(1 - d for d in DECAYS),
        *(DECAYS[0] * bias[0], 1 - DECAYS[0]),
        *(bias[2], EPS**2),
        *(*by_size, row[_WEIGHT]),
    ]


def _advance_native(
    pieces: Sequence[_Piece], rows: Sequence[Sequence[float]], bias: Sequence[float]
) -> list[Tensor | None]:
    """The look-ahead of every piece that native code serves, after its pass; None for others."""
    ahead: list[Tensor | None] = [None] * len(pieces)
    if (native := kernel()) is None:
        return ahead
    served = []
    for i, (piece, row) in enumerate(zip(pieces, rows, strict=True)):
        arrays = [piece.value, piece.grad, *piece.moments, piece.delta]
        if native.step.serves(arrays):
            look = ahead[i] = torch.empty_like(piece.grad)
            served.append(([*arrays[:-1], look, piece.delta], _factors(row, bias)))
    native.step.advance(served)
    return ahead


def _advance_plain(
    pieces: Sequence[_Piece], rows: Sequence[Sequence[float]], bias: Sequence[float]
) -> list[Tensor]:
    """The same pass in torch, over all pieces at once: a few kernels on a GPU, however many."""
    grads, deltas = [p.grad for p in pieces], [p.delta for p in pieces]
    fast, slow, second = ([p.moments[i] for p in pieces] for i in range(len(DECAYS)))
    torch._foreach_lerp_(fast, grads, 1 - DECAYS[0])
    torch._foreach_lerp_(slow, grads, 1 - DECAYS[1])
    torch._foreach_mul_(second, DECAYS[2])
    torch._foreach_addcmul_(second, grads, grads, 1 - DECAYS[2])
    ahead = torch._foreach_mul(fast, DECAYS[0] * bias[0])
    torch._foreach_add_(ahead, grads, alpha=1 - DECAYS[0])
    torch._foreach_add_(deltas, torch._foreach_mul(ahead, [row[FAST] for row in rows]))
    _add_multiples(deltas, grads, [row[_GRADIENT] for row in rows])
    _add_multiples(deltas, slow, [row[_SLOW] * bias[1] for row in rows])
    scale = torch._foreach_mul(second, bias[2])
    torch._foreach_add_(scale, EPS**2)
    torch._foreach_rsqrt_(scale)
    torch._foreach_mul_(deltas, scale)
    values = [p.value.to(p.delta.dtype) for p in pieces]
    _add_multiples(deltas, values, [row[_WEIGHT] for row in rows])
    return list(ahead)


def _add_multiples(
    to: Sequence[Tensor], tensors: Sequence[Tensor], factors: Sequence[float]
) -> None:
    """Add every tensor times its factor in place; those times zero cost nothing."""
    some = [i for i, factor in enumerate(factors) if factor]
    if some:
        multiples = torch._foreach_mul([tensors[i] for i in some], [factors[i] for i in some])
        torch._foreach_add_([to[i] for i in some], multiples)


def _coefficients(thought: Tensor) -> list[list[float]]:
    """The numbers of a flattened thought, fetched from its device once."""
    if thought not in _known:
        _known[thought] = thought.reshape(-1, len(CHANNELS)).tolist()
    rows: list[list[float]] = _known[thought]
    return rows
