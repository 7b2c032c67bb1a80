"""Names of node groups: parts of one tensor's neurons are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gmn_opt.graph.structure import Block, NodeGroup
from gmn_opt.graph.tracing.labels import Site
from gmn_opt.graph.tracing.pieces import Piece

SERVES = {"query": "q", "key": "k", "value": "v", "gate": "gate"}
"""What a part of a packed projection is called, by what it serves for."""


def short(name: str) -> str:
    """A module's name for its weight's neurons."""
    return name.removesuffix(".weight").removesuffix("_weight")


def part_name(site: Site, pieces: Sequence[Piece], index: Sequence[int]) -> str:
    """How one part of a site's neurons is called: ``[q]`` where that is clear, else ``[0:32]``."""
    known = [{SERVES[f.name] for f in site.facts if f.name in SERVES and f.offset in p.where}
             for p in pieces]  # fmt: skip
    for piece, serves in zip(pieces, known, strict=True):
        if piece.where == index and len(serves) == 1 and known.count(serves) == 1:
            return f"[{next(iter(serves))}]"
    return f"[{index[0]}:{index[-1] + 1}]"


def told_apart(
    groups: Sequence[NodeGroup], blocks: Iterable[Block], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[NodeGroup, ...]:
    """The groups, with an index where several of one name are outputs of a stacked tensor.

    Of experts in one tensor ``down``, the neurons are ``down[0]``, ``down[1]`` and so on.
    """
    shared = {name for name, n in Counter(g.name for g in groups).items() if n > 1}
    at: dict[int, dict[tuple[int, ...], None]] = {}
    for block in blocks:
        group = groups[block.dst]
        if group.name in shared and short(block.tensor) == group.name:
            sizes = zip(block.index, shapes[block.tensor], strict=True)
            where = tuple(run[0] for run, size in sizes if len(run) == 1 < size)
            at.setdefault(group.id, {})[where] = None
    suffix = {
        group: "".join(f"[{i}]" for i in next(iter(found)))
        for group, found in at.items()
        if len(found) == 1
    }
    return tuple(replace(g, name=g.name + suffix.get(g.id, "")) for g in groups)
