"""Pieces: what is compared when two networks are matched.

A piece is a block of a parameter of both networks (or a recording of the same neurons in both),
with one axis per factor. Axes that no permutation moves are folded into the last one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.graph.symmetry import indexer

PLAIN = -1
Moves = dict[int, Tensor]
"""Factor to its permutation ``[*parents, size]``, as in a :class:`gmn_opt.graph.Symmetry`."""
Parents = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Piece:
    """The same edges in two networks, float64 ``[*legs]``.

    ``legs`` names the factor of each axis, or is ``PLAIN``; ``dims`` says which axis of the
    parameter a leg was part of: a leg belongs to the parent that is nearest to it.
    """

    reference: Tensor
    other: Tensor
    legs: tuple[int, ...]
    dims: tuple[int, ...]

    def product(self) -> float:
        """Inner product of both sides."""
        return float((self.reference * self.other).sum())

    def with_other(self, other: Tensor) -> Piece:
        """The same with another second network."""
        return replace(self, other=other)

    def folded(self, kept: Collection[int]) -> Piece:
        """All axes but those of ``kept`` factors as one last plain axis."""
        stay = [k for k, f in enumerate(self.legs) if f in kept]
        rest = [k for k, f in enumerate(self.legs) if f not in kept]
        if len(rest) == 1 and rest[0] == len(self.legs) - 1 and self.legs[-1] == PLAIN:
            return self
        order = [*stay, *rest]
        shape = [self.reference.shape[k] for k in stay] + [-1]
        return Piece(
            self.reference.permute(order).reshape(shape),
            self.other.permute(order).reshape(shape),
            (*(self.legs[k] for k in stay), PLAIN),
            (*(self.dims[k] for k in stay), PLAIN),
        )

    def sorted_along(self, factors: Collection[int]) -> Piece:
        """Values sorted along the axes of factors whose order is not known yet.

        The inner product is then the largest that any order along these axes could reach
        (rearrangement inequality), and the same for every order that ``other`` comes in.
        """
        loose = [k for k, f in enumerate(self.legs) if f in factors]
        if not loose:
            return self
        rest = [k for k in range(len(self.legs)) if k not in loose]
        shape = [self.reference.shape[k] for k in rest] + [-1]
        reference, other = (
            x.permute([*rest, *loose]).reshape(shape).sort(-1).values
            for x in (self.reference, self.other)
        )
        legs = (*(self.legs[k] for k in rest), PLAIN)
        return Piece(reference, other, legs, (*(self.dims[k] for k in rest), PLAIN))

    def along(self, leg: int) -> tuple[Tensor, Tensor]:
        """Both sides as matrices ``[size of the leg, rest]``."""
        reference, other = (x.movedim(leg, 0).flatten(1) for x in (self.reference, self.other))
        return reference, other

    def at(self, leg: int, i: int, j: int, inner: Collection[int]) -> Piece:
        """Index ``i`` of the reference beside index ``j`` of the other, along one leg.

        Of the legs that depend on this factor (``inner``), those that belong to another leg of it
        become plain: they stay as they are.
        """
        factor = self.legs[leg]
        legs = [
            PLAIN if f == factor or (f in inner and self.nearest(k, factor) != leg) else f
            for k, f in enumerate(self.legs)
        ]
        left = [k for k in range(len(legs)) if k != leg]
        return Piece(
            self.reference.select(leg, i),
            self.other.select(leg, j),
            tuple(legs[k] for k in left),
            tuple(self.dims[k] for k in left),
        )

    def nearest(self, leg: int, parent: int) -> int:
        """Position of the axis of ``parent`` that a leg belongs to."""
        return nearest(self.legs, self.dims, leg, parent)


def nearest(legs: tuple[int, ...], dims: tuple[int, ...], leg: int, parent: int) -> int:
    """Position of the parent's leg that ``leg`` depends on: in the same dim if there is one."""
    found = [k for k, f in enumerate(legs) if f == parent]
    return min(found, key=lambda k: (dims[k] != dims[leg], abs(k - leg)))


def moved(
    tensor: Tensor, legs: tuple[int, ...], dims: tuple[int, ...], moves: Moves, parents: Parents
) -> Tensor:
    """A tensor ``[*legs]`` with its axes permuted: ``new[h, d] = old[p[h], s[h, d]]``."""
    active = [k for k, f in enumerate(legs) if f in moves]
    if all(not parents[legs[k]] for k in active):
        for k in active:
            tensor = tensor.index_select(k, moves[legs[k]])
        return tensor
    count = len(legs)
    grids = [
        torch.arange(size).reshape([-1 if k == at else 1 for k in range(count)])
        for at, size in enumerate(tensor.shape)
    ]
    where = []
    for k, f in enumerate(legs):
        if f in moves:
            above = [grids[nearest(legs, dims, k, p)] for p in parents[f]]
            where.append(moves[f][(*above, grids[k])])
        else:
            where.append(grids[k])
    return tensor[tuple(where)]


def weight_pieces(
    graph: ParameterGraph, reference: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> Iterator[Piece]:
    """The blocks of two networks' parameters; states by parameter name."""
    for block in graph.blocks:
        legs = tuple(f for dim in block.dims for f in dim)
        dims = tuple(d for d, dim in enumerate(block.dims) for _ in dim)
        sizes = [graph.factors[f].size for f in legs]
        sides = []
        for state in (reference, other):
            tensor = state[block.tensor].detach().cpu().to(torch.float64)
            part = tensor[indexer(block.index, tensor.device)] if block.index else tensor
            sides.append(part.reshape(sizes))
        yield Piece(sides[0], sides[1], legs, dims)


__all__ = ["PLAIN", "Moves", "Parents", "Piece", "moved", "weight_pieces"]
