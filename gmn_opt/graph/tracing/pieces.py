"""Axes as pieces: every concatenation distributed, every piece a plain product of leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gmn_opt.graph.tracing.index_sets import IndexSet, children, collapse, find, size_of
from gmn_opt.graph.tracing.labels import Axis, Leg, axis_size, expand_axis


class Piece(NamedTuple):
    """One segment of an axis after all concatenations are distributed."""

    where: Sequence[int]
    legs: tuple[Leg, ...]

    @property
    def start(self) -> int:
        """The first index."""
        return self.where[0] if self.where else 0


def distribute(axis: Axis) -> list[Piece]:
    """Write an axis as pieces that are plain products of leaves, each with its index set.

    The legs of a piece stand for the part of their axis that begins at the piece's first index.
    """
    legs = expand_axis(axis)
    if not legs:
        return [Piece(range(1), ())]
    if any(leg.set.size == 0 for leg in legs):
        return [Piece(range(0), ())]
    result: list[tuple[Sequence[int], tuple[tuple[Leg, bool], ...]]] = [(range(1), ())]
    for leg in legs:
        size = leg.set.size
        result = [
            (combine(outer, inner, size), (*left, *right))
            for outer, left in result
            for inner, right in _leg_pieces(leg)
        ]
    return [
        Piece(where, tuple(g.shifted(where[0]) if moves else g for g, moves in found))
        for where, found in result
    ]


def _leg_pieces(leg: Leg) -> list[tuple[Sequence[int], tuple[tuple[Leg, bool], ...]]]:
    """Pieces of one leg; of each of their legs, whether its offset counts within this axis."""
    if leg.set.segments is None or is_fixed(leg.set):
        return [(range(leg.set.size), ((leg, True),))]
    out: list[tuple[Sequence[int], tuple[tuple[Leg, bool], ...]]] = []
    at = 0
    parts = leg.parts if _parts_fit(leg) else None
    for i, seg in enumerate(leg.set.segments):
        if parts:
            found = [(p.where, tuple((g, False) for g in p.legs)) for p in distribute(parts[i])]
        else:
            sub = tuple(leg._replace(set=n, parts=None) for n in seg)
            base = [(p.where, p.legs) for p in distribute(sub)]
            found = [(w, tuple((g.shifted(-w[0]), True) for g in gs)) for w, gs in base]
        out.extend((shift(where, at), legs) for where, legs in found)
        at += size_of(seg)
    return out


def is_fixed(root: IndexSet) -> bool:
    """Whether a set, or everything that it is made of, is fixed; remembered on the set."""
    if root.fixed is None:
        parts = [find(c) for c in children(root)]
        if parts and all(is_fixed(p) for p in parts):
            root.fixed = next(p.fixed for p in parts)
    return root.fixed is not None


def _parts_fit(leg: Leg) -> bool:
    """Whether the remembered parts of a concatenation still match its segments."""
    if leg.parts is None or leg.set.segments is None:
        return False
    sizes = [size_of(s) for s in leg.set.segments]
    return sizes == [axis_size(p) for p in leg.parts]


def shift(index: Sequence[int], by: int) -> Sequence[int]:
    """Add ``by`` to every index."""
    if isinstance(index, range):
        return range(index.start + by, index.stop + by, index.step)
    return tuple(i + by for i in index)


def combine(outer: Sequence[int], inner: Sequence[int], size: int) -> Sequence[int]:
    """Index set of a product: ``o * size + i``, as a range where it is one."""
    if len(inner) == size:
        if isinstance(outer, range) and outer.step == 1:
            return range(outer.start * size, outer.start * size + len(outer) * size)
    elif len(outer) == 1:
        return shift(inner, outer[0] * size)
    return tuple(o * size + i for o in outer for i in inner)


def by_member(axes: Sequence[Axis]) -> list[list[list[Piece]]]:
    """The pieces of every axis; part by part where families make the parts of a stack differ."""
    over = _over(axes)
    if over is None:
        return [[[_with_member(p, 0) for p in distribute(axis)] for axis in axes]]
    out = []
    for i in range(over.size):
        pieces = [
            [q for p in distribute(axis) for q in distribute(_with_member(p, i).legs)]
            for axis in axes
        ]
        pieces[_place(axes, over)] = [Piece(range(i, i + 1), ())]
        out.append(pieces)
    return out


def settle(axes: Sequence[Axis]) -> None:
    """Collapse families in a parameter that run over no single axis of it, or over several."""
    for axis in axes:
        for leg in expand_axis(axis):
            if leg.set.members is not None and leg.set.over is not None:
                over = find(leg.set.over)
                if _place(axes, over) < 0 or _over(axes) is not over:
                    collapse(leg.set)


def _over(axes: Sequence[Axis]) -> IndexSet | None:
    """The index set that a family in some axes runs over, if its members differ."""
    for axis in axes:
        for leg in expand_axis(axis):
            found = [find(m) for m in leg.set.members or ()]
            if leg.set.over is not None and any(m is not found[0] for m in found):
                return find(leg.set.over)
    return None


def _place(axes: Sequence[Axis], over: IndexSet) -> int:
    """The axis that is ``over``, or -1."""
    found = (d for d, axis in enumerate(axes) if [g.set for g in expand_axis(axis)] == [over])
    return next(found, -1)


def _with_member(piece: Piece, index: int) -> Piece:
    """A piece with each family replaced by its member at an index."""
    legs = (g._replace(set=find(g.set.members[index])) if g.set.members else g for g in piece.legs)
    return piece._replace(legs=tuple(legs))
