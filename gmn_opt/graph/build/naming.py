"""Names of node groups: those that a tensor's single slices lead to are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gmn_opt.graph.structure import Block, NodeGroup


def short(name: str) -> str:
    """A module's name for its weight's neurons."""
    return name.removesuffix(".weight").removesuffix("_weight")


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
