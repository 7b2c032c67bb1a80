"""The hand-made rule that learning starts from: a direction and a step size by role.

Hidden matrices, kernels and input layers move along the orthogonalized momentum (Muon, Jordan et
al. 2024: Nesterov momentum, five Newton-Schulz steps), damped along the directions in which the
gradients agree most (see :mod:`gmn_opt.optim.orthogonalize`). The spectral norm of a step is 0.032
sqrt(max(1, fan-out / fan-in)), that of kernels 0.064 times that factor, that of dense input layers
is without it: with two coordinates as inputs it is large, and what follows may be a sine of them.
From 32 inputs on they are at 0.048. No such step is longer than a tenth of what it moves, of
kernels a fifth (a trust ratio, You et al. 2017, that only ever shortens, and no further than to a
fifth of the step). Before a sine it is a twentieth, and a tenth of the step: a sine takes its input
times thirty, say, and its weights are small (Sitzmann et al. 2020).
All else (biases, norms, embeddings, positions, the output layer, blocks with a single row or
column) moves along the Adam direction (Kingma and Ba 2015) at 0.009, the output layer of a wide
network at 0.009 * 128 / fan-in (Yang et al. 2022), not below 0.003. A tensor with several uses, an
embedding that is the output layer as well, takes the Adam step: the more careful of the two.
Hidden matrices decay by 0.01 of the size of their step, kernels by 0.02, the matrix of an output
layer by 0.03 (Loshchilov and Hutter 2019), but none of them before or behind a sine. A small data
set is fitted completely within a few hundred such steps, and what a classifier does from there on
makes it surer of itself, not better.

Both are multiplied by a schedule. Where the length of the training is known: 5 % linear warmup,
then a straight line to zero (Bergsma et al. 2025), for all but hidden matrices and dense input
layers only over the last 70 % of what is left (a trapezoid, as in Hu et al. 2024). Where it is not:
20 steps of warmup, then a fall with the square root of the steps, which never needs an end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmn_opt.graph.roles import Role, block_roles
from gmn_opt.optim.constants import layout_constants

if TYPE_CHECKING:
    from gmn_opt.graph import Block
    from gmn_opt.metanet import BlockedGraph

#: At the peak: spectral norm of the step of a square hidden matrix or kernel, and entry of an Adam
#: step.
MATRIX_STEP = 0.032
KERNEL_STEP = 0.064
INPUT_STEP = 0.048
#: A step at most so long, as a share of the root mean square of the singular values of the weights;
#: but weights near zero, as those of adapters at first, get this share of the step that others do.
MATRIX_REACH, KERNEL_REACH, SINE_REACH = 0.1, 0.2, 0.05
SHORTEST, SINE_SHORTEST = 0.2, 0.1
#: The activations that this is about, as the graph names them. Neurons that a residual joins have
#: the first one that was seen.
_SINES = ("sin", "cos")
#: From this fan-in on, a dense input layer moves at ``INPUT_STEP``; others at ``MATRIX_STEP``.
MANY_INPUTS = 32
ADAM_STEP = 0.009
#: Above this fan-in an output layer's step falls.
WIDE_OUTPUT = 128.0
#: But no further than to this share: flattened maps are wide without being many features.
WIDEST_OUTPUT = 1 / 3
#: Weight decay as a share of the size of a step: of orthogonalized matrices, of kernels, of an
#: output layer.
MATRIX_DECAY, KERNEL_DECAY, OUTPUT_DECAY = 0.01, 0.02, 0.03
#: Share of the run, and steps where its length is unknown, of linear warmup.
WARMUP_SHARE = 0.05
#: Share of what follows the warmup in which steps fall to zero: of orthogonalized matrices; of
#: kernels and of all that moves along the Adam direction.
FALL, LATE_FALL = 1.0, 0.7
OPEN_WARMUP = 20
#: The open schedule falls as 1 / sqrt(1 + step / OPEN_TIME).
OPEN_TIME = 100.0

_MATRIX = frozenset({Role.MATRIX, Role.CONVOLUTION, Role.INPUT})
_CAREFUL = frozenset(
    {Role.OUTPUT, Role.EMBEDDING, Role.POSITION, Role.SCALE, Role.SHIFT, Role.BIAS}
)
#: In this order among the features of a block.
ROLES = tuple(Role)


@dataclass(frozen=True)
class BaseConstants:
    """What the base needs of a layout.

    orthogonal: numbers of the blocks that move along the orthogonalized direction; is_orthogonal:
    the same as ``[blocks]`` of bool; sizes: factor on the direction of every block at the peak of
    the schedule, ``[blocks]``; reaches: of orthogonalized blocks, the longest step for weights of
    root mean square 1, ``[blocks]``; shortest: but at least this share of the size, ``[blocks]``;
    is_kernel: of blocks that are orthogonalized kernels, ``[blocks]`` of bool; decays: of the
    weights, as shares of the size, ``[blocks]``; falls: the share of the run in which the steps of
    every block fall; roles: ``[blocks, len(ROLES)]`` of zeros and ones.
    """

    orthogonal: tuple[int, ...]
    is_orthogonal: Tensor
    sizes: Tensor
    reaches: Tensor
    shortest: Tensor
    is_kernel: Tensor
    decays: Tensor
    falls: tuple[float, ...]
    roles: Tensor

    def schedules(self, step: int, horizon: int | None) -> list[float]:
        """The :func:`schedule` of every block."""
        by_fall = {fall: schedule(step, horizon, fall) for fall in set(self.falls)}
        return [by_fall[fall] for fall in self.falls]

    def trusted(self, weights: Tensor) -> Tensor:
        """Sizes for blocks whose weights have the root mean squares ``weights`` [..., blocks]."""
        share = (self.reaches * weights / self.sizes).maximum(self.shortest).clamp(max=1.0)
        return self.sizes * torch.where(self.is_orthogonal, share, 1.0)


def _make(layout: BlockedGraph, like: Tensor) -> BaseConstants:
    known = list(zip(layout.graph.blocks, block_roles(layout.graph), strict=True))
    roles = [_roles_of(layout_block.block, known) for layout_block in layout.blocks]
    sines = {group.id for group in layout.graph.groups if group.activation in _SINES}
    flags, sizes, reaches, shortest, decays, falls = [], [], [], [], [], []
    for block, own in zip(layout.blocks, roles, strict=True):
        m, n = block.dst.size, block.fan_in
        flags.append(bool(own & _MATRIX) and not own & _CAREFUL and min(m, n) > 1)
        sizes.append(_matrix_step(own, m, n) if flags[-1] else _adam_step(own, n))
        reach = KERNEL_REACH if Role.CONVOLUTION in own else MATRIX_REACH
        before_sine = block.block.dst in sines
        # all entries alike, so all singular values
        reaches.append((SINE_REACH if before_sine else reach) * math.sqrt(max(m, n)))
        shortest.append(SINE_SHORTEST if before_sine else SHORTEST)
        at_sine = before_sine or block.block.src in sines
        decays.append(0.0 if at_sine else _decay(own, flags[-1], m, n))
        falls.append(FALL if flags[-1] and Role.CONVOLUTION not in own else LATE_FALL)
    is_orthogonal = torch.tensor(flags, dtype=torch.bool, device=like.device)
    kernels = [Role.CONVOLUTION in own for own in roles]
    return BaseConstants(
        tuple(i for i, flag in enumerate(flags) if flag),
        is_orthogonal,
        like.new_tensor(sizes),
        like.new_tensor(reaches),
        like.new_tensor(shortest),
        is_orthogonal & torch.tensor(kernels, dtype=torch.bool, device=like.device),
        like.new_tensor(decays),
        tuple(falls),
        like.new_tensor([[float(role in own) for role in ROLES] for own in roles]),
    )


def _matrix_step(roles: frozenset[Role], rows: int, columns: int) -> float:
    step = KERNEL_STEP if Role.CONVOLUTION in roles else MATRIX_STEP
    if Role.INPUT not in roles:
        return step * math.sqrt(max(1.0, rows / columns))
    dense = Role.CONVOLUTION not in roles
    return INPUT_STEP if dense and columns >= MANY_INPUTS else step


def _adam_step(roles: frozenset[Role], fan_in: int) -> float:
    share = min(1.0, WIDE_OUTPUT / fan_in) if Role.OUTPUT in roles else 1.0
    return ADAM_STEP * max(WIDEST_OUTPUT, share)


def _decay(roles: frozenset[Role], is_orthogonal: bool, rows: int, columns: int) -> float:
    if is_orthogonal:
        return KERNEL_DECAY if Role.CONVOLUTION in roles else MATRIX_DECAY
    is_output_alone = roles & _CAREFUL == {Role.OUTPUT}
    return OUTPUT_DECAY if is_output_alone and min(rows, columns) > 1 else 0.0


def _roles_of(piece: Block, known: list[tuple[Block, frozenset[Role]]]) -> frozenset[Role]:
    """The roles of a block, or of the block that a layout cut ``piece`` from."""
    for block, roles in known:
        same = (block.tensor, block.src, block.dst) == (piece.tensor, piece.src, piece.dst)
        ends = zip(piece.index, block.index, strict=True)
        if same and all(not len(part) or part[0] in whole for part, whole in ends):
            return roles
    return frozenset({Role.OTHER})


def base_constants(layout: BlockedGraph, like: Tensor) -> BaseConstants:
    """The constants of ``layout`` in the dtype and on the device of ``like``, made once."""
    return layout_constants(layout, like, _make)


def schedule(step: int, horizon: int | None, fall: float = FALL) -> float:
    """Factor on the step size at ``step`` (from 0) of a training of ``horizon`` steps.

    ``fall``: in which share of what follows the warmup it comes down, if the length is known.
    """
    if horizon is None:
        return min(1.0, (step + 1) / OPEN_WARMUP) / math.sqrt(1.0 + step / OPEN_TIME)
    warmup = max(1.0, WARMUP_SHARE * horizon)
    if step < warmup:
        return (step + 1) / max(warmup, step + 1.0)
    left = 1.0 - (step - warmup) / max(1.0, horizon - warmup)
    return max(0.0, min(1.0, left / fall))
