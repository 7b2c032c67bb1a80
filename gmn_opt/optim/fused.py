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
from gmn_opt.optim.base import base_constants, schedule
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
    rows, factor = _coefficients(thought), -schedule(step, horizon)
    bias = [1 / (1 - d ** (step + 1)) for d in DECAYS]
    native, ahead = kernel(), []
    for piece in pieces:
        row = [factor * c for c in rows[piece.block]]
        arrays = [piece.value, piece.grad, *piece.moments, piece.delta]
        if native is not None and native.step.serves(arrays):
            ahead.append(torch.empty_like(piece.grad))
            native.step.advance([*arrays[:-1], ahead[-1], piece.delta], _factors(row, bias))
        else:
            ahead.append(_look_ahead(piece, bias))
            _add_scaled(piece, ahead[-1], row, bias)
    orthogonal = set(base_constants(layout, thought).orthogonal)
    chosen = [(p, look) for p, look in zip(pieces, ahead, strict=True) if p.block in orthogonal]
    matrices = [layout.blocks[p.block].arrange(look) for p, look in chosen]
    for (piece, _), made in zip(chosen, orthogonalize_all(matrices, fast=True), strict=True):
        direction = layout.blocks[piece.block].from_edges(made)
        piece.delta.add_(direction, alpha=factor * rows[piece.block][ORTHOGONAL])
    return deltas


def _pieces(
    layout: BlockedGraph, tensors: Mapping[str, Trained]
) -> tuple[list[_Piece], dict[str, Tensor]]:
    pieces, deltas = [], {}
    for name, tensor in tensors.items():
        deltas[name] = torch.zeros_like(tensor.grad)
        for i in layout.blocks_of[name]:
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


def _look_ahead(piece: _Piece, bias: Sequence[float]) -> Tensor:
    """Moments one gradient on, in place, and the fast one's look-ahead."""
    fast, slow, second = piece.moments
    fast.lerp_(piece.grad, 1 - DECAYS[0])
    slow.lerp_(piece.grad, 1 - DECAYS[1])
    second.mul_(DECAYS[2]).addcmul_(piece.grad, piece.grad, value=1 - DECAYS[2])
    return torch.mul(fast, DECAYS[0] * bias[0]).add_(piece.grad, alpha=1 - DECAYS[0])


def _add_scaled(piece: _Piece, ahead: Tensor, row: Sequence[float], bias: Sequence[float]) -> None:
    """The directions over the root of the second moment, and the weights; ``row``: times what."""
    mixed = ahead * row[FAST]
    if row[_GRADIENT]:
        mixed.add_(piece.grad, alpha=row[_GRADIENT])
    if row[_SLOW]:
        mixed.add_(piece.moments[1], alpha=row[_SLOW] * bias[1])
    scale = (piece.moments[2] * bias[2]).add_(EPS**2).rsqrt_()
    torch.mul(mixed, scale, out=piece.delta)
    if row[_WEIGHT]:
        piece.delta.add_(piece.value, alpha=row[_WEIGHT])


def _coefficients(thought: Tensor) -> list[list[float]]:
    """The numbers of a flattened thought, fetched from its device once."""
    if thought not in _known:
        _known[thought] = thought.reshape(-1, len(CHANNELS)).tolist()
    rows: list[list[float]] = _known[thought]
    return rows
