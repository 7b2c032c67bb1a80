"""Conditional symmetries: which spaces may be permuted anew for every index of another.

A leaf d may use a permutation of its own per index of h (the dims of each attention head) if every
tensor that was seen has h wherever it has d, statistics hidden inside of operators included. An
operator that combines different h at one d leaves behind a tensor, or a hidden statistic, that has
d but not h, or that has d once and h twice: then no single h belongs to that d.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import product
from math import prod

from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing.index_sets import IndexSet
from gmn_opt.graph.tracing.labels import Axis
from gmn_opt.graph.tracing.pieces import Piece, distribute
from gmn_opt.graph.tracing.record import Record

MAX_CELLS = 4096
Cell = tuple[tuple[IndexSet, ...], ...]


def parents_of(record: Record, factors: dict[IndexSet, int]) -> dict[int, tuple[int, ...]]:
    """Factor id to the ids of the factors that its permutation may depend on."""
    together: dict[IndexSet, set[IndexSet]] = {}
    everything = [x.axes for x in (*record.parameters, *record.statistics.values())]
    done: set[tuple[Cell, ...]] = set()
    for axes in [*everything, *record.seen]:
        for cell in _cells(axes, done):
            count = Counter(leaf for axis in cell for leaf in axis)
            for leaf in count:
                if leaf.fixed is None and leaf.size > 1 and leaf in factors:
                    here = {p for p in count if p is not leaf and _leads(p, leaf, cell, count)}
                    together[leaf] = together[leaf] & here if leaf in together else here
    out: dict[int, tuple[int, ...]] = {}
    for leaf, always in together.items():
        partners = {p for p in always if p in factors and p.size > 1}
        # Two leaves that always occur together: the earlier one leads.
        leading = {
            p for p in partners if leaf not in together.get(p, set()) or p.serial < leaf.serial
        }
        if leading:
            out[factors[leaf]] = tuple(sorted(factors[p] for p in leading))
    return out


def _leads(parent: IndexSet, leaf: IndexSet, cell: Cell, count: Counter[IndexSet]) -> bool:
    """Whether it is clear which index of ``parent`` belongs to each ``leaf`` of a tensor."""
    if count[parent] == 1:
        return True
    return all(axis.count(parent) == axis.count(leaf) == 1 for axis in cell if leaf in axis)


def _cells(axes: Iterable[Axis], done: set[tuple[Cell, ...]]) -> Iterable[Cell]:
    """The leaves that occur together, axis by axis, for every combination of their segments."""
    pieces = []
    for axis in axes:
        pieces.append(tuple(dict.fromkeys(_leaves(piece) for piece in distribute(axis))))
    key = tuple(pieces)
    if key in done:
        return
    done.add(key)
    combos: Iterable[Cell] = product(*pieces)
    if prod(map(len, pieces)) > MAX_CELLS:
        # Axis by axis, leaves have fewer company: that can only take conditions away.
        combos = ((option,) for options in pieces for option in options)
    for combo in combos:
        width = max((len(n.members) for axis in combo for n in axis if n.members), default=0)
        for i in range(width):
            yield tuple(tuple(m for n in axis for m in _member(n, i)) for axis in combo)
        if not width:
            yield combo


def _leaves(piece: Piece) -> tuple[IndexSet, ...]:
    """The leaves of a piece, and those that they run along."""
    leaves = [leg.set for leg in piece.legs if leg.set.size > 1]
    above = sets.expand(leaf.along[0] for leaf in leaves if leaf.along is not None)
    return (*above, *leaves)


def _member(leaf: IndexSet, index: int) -> list[IndexSet]:
    """The leaves that a family stands for at one index of what it runs over."""
    if leaf.members is None:
        return [leaf]
    if index >= len(leaf.members):
        return []
    return sets.expand((leaf.members[index],))
