"""Automorphisms of a coloured graph, all of them, by individualization and refinement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence


class ColoredGraph:
    """Vertices of given colours, and arcs ``(from, to, kind)`` between them.

    Automorphisms are enumerated by individualization and refinement: give one vertex a colour of
    its own, refine colours by those of neighbours, repeat. Every one is checked on all arcs.
    """

    def __init__(self, colors: Sequence[Hashable], arcs: Sequence[tuple[int, int, int]]) -> None:
        names = {c: i for i, c in enumerate(sorted(set(colors), key=repr))}
        self.start = [names[c] for c in colors]
        self.arcs = arcs
        self.near: list[list[tuple[int, int]]] = [[] for _ in colors]
        for a, b, kind in arcs:
            self.near[a].append((2 * kind, b))
            self.near[b].append((2 * kind + 1, a))
        self.arc_count = Counter(arcs)

    def refine(self, colors: list[int]) -> list[int]:
        """Split colours by the colours around until nothing changes; names are canonical."""
        while True:
            seen = [
                (c, tuple(sorted((kind, colors[n]) for kind, n in near)))
                for c, near in zip(colors, self.near, strict=True)
            ]
            names = {s: i for i, s in enumerate(sorted(set(seen)))}
            if len(names) == len(set(colors)):
                return [names[s] for s in seen]
            colors = [names[s] for s in seen]

    def automorphisms(self) -> Iterator[list[int]]:
        """Images of all vertices."""
        start = self.refine(self.start)
        yield from self._search(start, start)

    def _search(self, here: list[int], there: list[int]) -> Iterator[list[int]]:
        if Counter(here) != Counter(there):
            return
        sizes = Counter(here)
        open_ = [c for c in here if sizes[c] > 1]
        if not open_:
            where = {c: i for i, c in enumerate(there)}
            image = [where[c] for c in here]
            moved = Counter((image[a], image[b], kind) for a, b, kind in self.arcs)
            if moved == self.arc_count:
                yield image
            return
        color, fresh = min(open_), len(here)
        chosen = here.index(color)
        mine = self.refine([fresh if i == chosen else c for i, c in enumerate(here)])
        for other in (i for i, c in enumerate(there) if c == color):
            theirs = self.refine([fresh if i == other else c for i, c in enumerate(there)])
            yield from self._search(mine, theirs)
