"""Repeated layers of a graph, shown once: the twelve blocks of a transformer as one of them.

Layers are told by their names (``blocks.0``, ``blocks.1``, ...), and are the same if everything in
them is: groups, parameters, sizes, index sets, and what they share with the rest of the network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmn_opt.graph.structure import BlockGraph

MANY_GROUPS = 40
_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$|\[| )")


@dataclass(frozen=True)
class Repeat:
    """Layers ``first`` to ``last`` of a container; ``groups`` are those of the one shown."""

    prefix: str
    first: int
    last: int
    groups: frozenset[int]

    @property
    def count(self) -> int:
        """How many layers are folded into one."""
        return self.last - self.first + 1

    @property
    def title(self) -> str:
        """What the folded layers are called."""
        return f"{self.prefix}{self.first} … {self.last}  × {self.count}"


@dataclass(frozen=True)
class Folded:
    """A graph in which of every run of equal layers only the first is left."""

    graph: BlockGraph
    repeats: tuple[Repeat, ...] = ()


def fold(graph: BlockGraph, least: int | None = None) -> Folded:
    """Fold every run of at least ``least`` equal layers, outer containers first.

    By default three, or two in graphs of more than ``MANY_GROUPS`` groups.
    """
    least = least or (2 if len(graph.groups) > MANY_GROUPS else 3)
    repeats: list[Repeat] = []
    tried: set[str] = set()
    while True:
        names = [g.name for g in graph.groups] + [b.tensor for b in graph.blocks]
        prefixes = {n[: m.start()] for n in names for m in _NUMBER.finditer(n)} - tried
        if not prefixes:
            return Folded(graph, tuple(repeats))
        prefix = min(prefixes, key=lambda p: (p.count("."), p))
        tried.add(prefix)
        for first, last in _runs(graph, prefix, least):
            graph, moved = _without_copies(graph, prefix, first, last)
            repeats = [
                replace(r, groups=frozenset(moved[g] for g in r.groups if g in moved))
                for r in repeats
            ]
            kept = frozenset(g.id for g in graph.groups if _layer(g.name, prefix) == first)
            repeats.append(Repeat(prefix, first, last, kept))


def _layer(name: str, prefix: str) -> int | None:
    """The number of the layer that a name belongs to."""
    found = _NUMBER.match(name, len(prefix)) if name.startswith(prefix) else None
    return int(found[0]) if found else None


def _runs(graph: BlockGraph, prefix: str, least: int) -> list[tuple[int, int]]:
    """First and last number of every run of equal layers."""
    layers: dict[int, list[int]] = {}
    for group in graph.groups:
        number = _layer(group.name, prefix)
        if number is not None:
            layers.setdefault(number, []).append(group.id)
    signatures = {n: _signature(graph, prefix, n) for n in sorted(layers)}
    runs: list[list[int]] = []
    for n, signature in signatures.items():
        if runs and runs[-1][1] == n - 1 and signatures[n - 1] == signature:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return [(a, b) for a, b in runs if b - a + 1 >= least]


def _signature(graph: BlockGraph, prefix: str, number: int) -> Any:
    """All that there is in a layer, free of its own number and of what only it has."""
    stem = f"{prefix}{number}"
    inside = {g.id for g in graph.groups if _layer(g.name, prefix) == number}
    mine = [b for b in graph.blocks if _layer(b.tensor, prefix) == number]
    shared = {f for g in graph.groups if g.id not in inside for f in g.factors}
    shared |= {
        f for b in graph.blocks if _layer(b.tensor, prefix) != number for d in b.dims for f in d
    }
    local: dict[int, int] = {}

    def named(factors: Iterable[int]) -> tuple[Any, ...]:
        return tuple(
            ("shared", f)
            if f in shared and graph.factors[f].is_free
            else (graph.factors[f].size, graph.factors[f].fixed, local.setdefault(f, len(local)))
            for f in factors
        )

    def end(group: int) -> Any:
        return graph.groups[group].name.removeprefix(stem) if group in inside else "outside"

    groups = [
        (g.name.removeprefix(stem), g.role, g.activation, named(g.factors))
        for g in sorted(graph.groups, key=lambda g: g.name)  # they are numbered as they are met
        if g.id in inside
    ]
    blocks = [
        (b.tensor.removeprefix(stem), b.kind, b.index, b.roles, end(b.src), end(b.dst),
         tuple(map(named, b.dims)))
        for b in mine
    ]  # fmt: skip
    links = [(x.kind, end(x.src), end(x.dst)) for x in graph.links if {x.src, x.dst} <= inside]
    return groups, blocks, sorted(links)


def _without_copies(
    graph: BlockGraph, prefix: str, first: int, last: int
) -> tuple[BlockGraph, dict[int, int]]:
    """The graph without layers ``first + 1`` to ``last``; new numbers of all groups.

    What led from the last of them leads from the first now. What led from one to the next is left
    out: it would be a loop.
    """
    copies = range(first + 1, last + 1)
    gone = {g.id: _layer(g.name, prefix) for g in graph.groups}
    gone = {g: n for g, n in gone.items() if n in copies}
    names = {g.name: g.id for g in graph.groups}
    twin, factor = {}, {f.id: f.id for f in graph.factors}
    for g, n in gone.items():
        name = graph.groups[g].name
        twin[g] = names[f"{prefix}{first}{name.removeprefix(f'{prefix}{n}')}"]
        for old, new in zip(graph.groups[g].factors, graph.groups[twin[g]].factors, strict=True):
            factor[old] = new
    kept = [g for g in graph.groups if g.id not in gone]
    number = {g.id: n for n, g in enumerate(kept)}
    number |= {g: number[t] for g, t in twin.items()}
    inside = {g.id for g in graph.groups if _layer(g.name, prefix) in range(first, last + 1)}

    def renamed(dims: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(factor[f] for f in dim) for dim in dims)

    def between_layers(src: int, dst: int) -> bool:
        apart = _layer(graph.groups[src].name, prefix) != _layer(graph.groups[dst].name, prefix)
        return {src, dst} <= inside and apart

    blocks = [
        replace(b, src=number[b.src], dst=number[b.dst], dims=renamed(b.dims))
        for b in graph.blocks
        if _layer(b.tensor, prefix) not in copies and not between_layers(b.src, b.dst)
    ]
    links = dict.fromkeys(
        replace(x, src=number[x.src], dst=number[x.dst])
        for x in graph.links
        if not between_layers(x.src, x.dst) and not (x.src in gone and x.dst in gone)
    )
    counts = Counter(b.tensor for b in graph.blocks)
    left = Counter(b.tensor for b in blocks)
    whole = {n for n in left if left[n] == counts[n]}
    small = BlockGraph(
        graph.factors,
        tuple(replace(g, id=number[g.id], factors=renamed([g.factors])[0]) for g in kept),
        tuple(b for b in blocks if b.tensor in whole),
        tuple(x for x in links if x.src != x.dst),
        {n: s for n, s in graph.shapes.items() if n in whole},
    )
    return small, number
