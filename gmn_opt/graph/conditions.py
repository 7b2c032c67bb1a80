"""Conditional symmetries: which spaces may be permuted anew for every index of another.

A leaf d may use a permutation of its own per index of h (the dims of each attention head) if every
tensor that was seen has h wherever it has d, statistics hidden inside of operators included. An
operator that combines different h at one d leaves behind a tensor, or a hidden statistic, that has
d but not h.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from gmn_opt.graph import labels as lab
from gmn_opt.graph.labels import Axis, Node
from gmn_opt.graph.pieces import distribute
from gmn_opt.graph.uses import Record


def parents_of(record: Record, factors: dict[Node, int]) -> dict[int, tuple[int, ...]]:
    """Factor id to the ids of the factors that its permutation may depend on."""
    together: dict[Node, set[Node]] = {}
    everything = [label.axes for label in record.parameters]
    done: set[tuple[tuple[Node, ...], ...]] = set()
    for axes in [*everything, *record.seen]:
        for leaves in _cells(axes, done):
            for node in leaves:
                if node.fixed is None and node.size > 1 and node in factors:
                    here = set(leaves) - {node}
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


def _cells(
    axes: Iterable[Axis], done: set[tuple[tuple[Node, ...], ...]]
) -> Iterable[frozenset[Node]]:
    """The leaves that occur together, one set per combination of the axes' segments."""
    pieces = []
    for axis in axes:
        options = {
            tuple(leg.node for leg in piece.legs if leg.node.size > 1) for piece in distribute(axis)
        }
        pieces.append(tuple(options))
    if any(len(set(p)) > 32 for p in pieces):
        pieces = [p[:32] for p in pieces]
    key = tuple(tuple(n for option in p for n in option) for p in pieces)
    if key in done:
        return
    done.add(key)
    for combo in product(*pieces):
        leaves = [n for option in combo for n in option]
        width = max((len(n.members) for n in leaves if n.members), default=0)
        for i in range(width):
            yield frozenset(m for n in leaves for m in _member(n, i))
        if not width:
            yield frozenset(leaves)


def _member(node: Node, index: int) -> list[Node]:
    """The leaves that a family stands for at one index of what it runs over."""
    if node.members is None:
        return [node]
    if index >= len(node.members):
        return []
    return lab.expand((node.members[index],))
