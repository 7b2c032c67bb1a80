"""Where to draw the groups of a parameter graph: depth, order within a row, and coordinates."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise

from gmn_opt.graph.structure import BlockGraph

Arc = tuple[int, int]

_SWEEPS = 12
_ALIGN, _BEND = 200.0, 0.15
_PASS = 10.0


def layer_arcs(graph: BlockGraph) -> list[Arc]:
    """Distinct pairs of groups that a parameter or an identity edge runs between, biases aside."""
    arcs: dict[Arc, None] = {}
    for block in graph.blocks:
        if graph.groups[block.src].role != "bias":
            arcs[block.src, block.dst] = None
    for link in graph.links:
        if link.kind != "product":
            arcs[link.src, link.dst] = None
    return [a for a in arcs if a[0] != a[1]]


def depths(graph: BlockGraph) -> dict[int, int]:
    """Column of every group but biases: below all that it is computed from.

    Arcs that close a cycle, as in recurrent networks, are left out. What nothing leads to stands
    right above what it leads to.
    """
    arcs = layer_arcs(graph)
    shown = [g.id for g in graph.groups if g.role != "bias"]
    after: dict[int, list[int]] = {g: [] for g in shown}
    for a, b in arcs:
        if a in after and b in after:
            after[a].append(b)
    starts = sorted(shown, key=lambda g: graph.groups[g].role != "input")
    order = _without_cycles(starts, after)
    depth = dict.fromkeys(shown, 0)
    for g in order:
        for b in after[g]:
            depth[b] = max(depth[b], depth[g] + 1)
    reached = {b for out in after.values() for b in out}
    for g in reversed(order):
        if g not in reached and after[g]:
            depth[g] = min(depth[b] for b in after[g]) - 1
    return depth


def _without_cycles(starts: Sequence[int], after: dict[int, list[int]]) -> list[int]:
    """A topological order; arcs back to what is still open are removed from ``after``."""
    done: dict[int, None] = {}
    open_: set[int] = set()
    for start in starts:
        stack = [] if start in done else [(start, iter(list(after[start])))]
        open_.update(s for s, _ in stack)
        while stack:
            node, rest = stack[-1]
            for other in rest:
                if other in open_:
                    after[node].remove(other)
                elif other not in done:
                    open_.add(other)
                    stack.append((other, iter(list(after[other]))))
                    break
            else:
                stack.pop()
                open_.discard(node)
                done[node] = None
    return list(done)[::-1]


class Layered:
    """Boxes in rows by depth, wide arcs led around the boxes between their ends.

    Groups that an arc in ``aligned`` joins are placed below each other, so that a residual
    stream runs straight down.

    Attributes:
        rows: Items of every row from left to right: groups by number, and ``(arc, row)`` where an
            arc passes a row that neither of its ends is in.
        center: Horizontal middle of every item.
    """

    def __init__(
        self,
        depth: dict[int, int],
        arcs: Sequence[Arc],
        width: dict[int, float],
        gap: float,
        aligned: Sequence[Arc] = (),
    ) -> None:
        self.depth, self.arcs, self.gap = depth, list(arcs), gap
        self.rows: list[list[object]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        self.width: dict[object, float] = dict(width.items())
        for g in depth:
            self.rows[depth[g]].append(g)
        self.up: dict[object, list[object]] = {}
        self.down: dict[object, list[object]] = {}
        self.paths: dict[Arc, list[object]] = {}
        self.beside: dict[object, list[object]] = {}
        for a, b in aligned:
            if a in depth and b in depth and depth[a] != depth[b]:
                self.beside.setdefault(a, []).append(b)
                self.beside.setdefault(b, []).append(a)
        for arc in self.arcs:
            self._lead(arc)
        self.center: dict[object, float] = {}
        self._order()
        self._place()

    def _lead(self, arc: Arc) -> None:
        first, last = sorted(arc, key=lambda g: self.depth[g])
        path: list[object] = [first]
        for row in range(self.depth[first] + 1, self.depth[last]):
            item = (arc, row)
            self.rows[row].append(item)
            self.width[item] = _PASS
            path.append(item)
        path.append(last)
        if self.depth[first] != self.depth[last]:
            for a, b in pairwise(path):
                self.down.setdefault(a, []).append(b)
                self.up.setdefault(b, []).append(a)
        self.paths[arc] = path if first == arc[0] else path[::-1]

    def _order(self) -> None:
        """Sort rows by where their neighbours are, down and up in turn; keep the best order."""
        best, least = [list(r) for r in self.rows], self.crossings()
        for sweep in range(_SWEEPS):
            downwards = sweep % 2 == 0
            near = self.up if downwards else self.down
            rows = self.rows[1:] if downwards else self.rows[-2::-1]
            place = {item: i / max(len(r), 1) for r in self.rows for i, item in enumerate(r)}
            for row in rows:
                key = {
                    item: _mean([place[n] for n in near.get(item, [])], place[item]) for item in row
                }
                row.sort(key=lambda item: key[item])
                place |= {item: i / max(len(row), 1) for i, item in enumerate(row)}
            found = self.crossings()
            if found < least:
                best, least = [list(r) for r in self.rows], found
        self.rows = best

    def crossings(self) -> int:
        """Number of pairs of lines that cross between two rows."""
        total = 0
        for row, below in pairwise(self.rows):
            place = {item: i for i, item in enumerate(below)}
            ends = [p for item in row for p in sorted(place[n] for n in self.down.get(item, []))]
            passed: list[int] = []
            for p in ends:
                total += len(passed) - bisect_right(passed, p)
                insort(passed, p)
        return total

    def _place(self) -> None:
        for row in self.rows:
            at = 0.0
            for item in row:
                self.center[item] = at + self.width[item] / 2
                at += self.width[item] + self.gap
            for item in row:
                self.center[item] -= at / 2
        for sweep in range(3 * _SWEEPS):
            downwards = sweep % 2 == 0
            for row in self.rows if downwards else self.rows[::-1]:
                wishes = [self._wish(item) for item in row]
                widths = [self.width[item] for item in row]
                spots = apart([x for x, _ in wishes], widths, self.gap, [w for _, w in wishes])
                self.center |= dict(zip(row, spots, strict=True))

    def _wish(self, item: object) -> tuple[float, float]:
        """Where an item wants to be, and how much.

        Above all below what it is aligned with, else amid its neighbours; bends weigh little.
        """
        pulls = [(self.center[n], _ALIGN) for n in self.beside.get(item, ())]
        for n in (*self.up.get(item, ()), *self.down.get(item, ())):
            loose = isinstance(n, tuple) != isinstance(item, tuple)
            pulls.append((self.center[n], _BEND if loose else 1.0))
        weight = sum(w for _, w in pulls)
        if not pulls:
            return self.center[item], _BEND
        return sum(x * w for x, w in pulls) / weight, weight


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def apart(
    wanted: Sequence[float], widths: Sequence[float], gap: float, weights: Sequence[float]
) -> list[float]:
    """The places nearest to the wanted ones, in the same order, at which nothing overlaps.

    Weighted least squares under order constraints: neighbours that collide are pooled and move
    together.
    """
    offsets, at = [], 0.0
    for n, width in enumerate(widths):
        at += (widths[n - 1] / 2 + gap + width / 2) if n else 0.0
        offsets.append(at)
    pools: list[tuple[float, float, int]] = []
    for want, offset, weight in zip(wanted, offsets, weights, strict=True):
        pools.append((want - offset, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, v, n), (b, w, m) = pools[-2:]
            pools[-2:] = [((a * v + b * w) / (v + w), v + w, n + m)]
    bases = [base for base, _, count in pools for _ in range(count)]
    return [base + offset for base, offset in zip(bases, offsets, strict=True)]
