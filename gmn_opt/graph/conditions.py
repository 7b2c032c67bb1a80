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

from gmn_opt.graph import index_sets as sets
from gmn_opt.graph.index_sets import Node
from gmn_opt.graph.labels import Axis
from gmn_opt.graph.pieces import Piece, distribute
from gmn_opt.graph.uses import Record

MAX_CELLS = 4096
Cell = tuple[tuple[Node, ...], ...]


def parents_of(record: Record, factors: dict[Node, int]) -> dict[int, tuple[int, ...]]:
    """Factor id to the ids of the factors that its permutation may depend on."""
    together: dict[Node, set[Node]] = {}
    everything = [label.axes for label in record.parameters]
    done: set[tuple[Cell, ...]] = set()
    for axes in [*everything, *record.seen]:
        for cell in _cells(axes, done):
            count = Counter(node for axis in cell for node in axis)
            for node in count:
                if node.fixed is None and node.size > 1 and node in factors:
                    here = {p for p in count if p is not node and _leads(p, node, cell, count)}
                    together[node] = together[node] & here if node in together else here
    out: dict[int, tuple[int, ...]] = {}
    for node, always in together.items():
        partners = {p for p in always if p in factors and p.size > 1}
        # Two leaves that always occur together: the earlier one leads.
        leading = {
            p for p in partners if node not in together.get(p, set()) or p.serial < node.serial
        }
        if leading:
            out[factors[node]] = tuple(sorted(factors[p] for p in leading))
    return out


def _leads(parent: Node, node: Node, cell: Cell, count: Counter[Node]) -> bool:
    """Whether it is clear which index of ``parent`` belongs to each ``node`` of a tensor."""
    if count[parent] == 1:
        return True
    return all(axis.count(parent) == axis.count(node) == 1 for axis in cell if node in axis)


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


def _leaves(piece: Piece) -> tuple[Node, ...]:
    """The leaves of a piece, and those that they run along."""
    nodes = [leg.node for leg in piece.legs if leg.node.size > 1]
    above = sets.expand(node.along[0] for node in nodes if node.along is not None)
    return (*above, *nodes)


def _member(node: Node, index: int) -> list[Node]:
    """The leaves that a family stands for at one index of what it runs over."""
    if node.members is None:
        return [node]
    if index >= len(node.members):
        return []
    return sets.expand((node.members[index],))
