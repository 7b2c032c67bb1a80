"""Identity edges between groups of neurons, from what met whom in the traced pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gmn_opt.graph.structure import Factor, Link, NodeGroup
from gmn_opt.graph.tracing.labels import SiteRef
from gmn_opt.graph.tracing.record import Record


class Join(NamedTuple):
    """Neurons of several sites, taken together as a group of their own.

    What a grouped-query attention leads into its output projection has the key-value heads and
    dims of the values, and the query heads within each from elsewhere.
    """

    sites: tuple[SiteRef, ...]
    group: int


def find_links(
    record: Record,
    groups: Sequence[NodeGroup],
    at_site: Iterable[tuple[int, int, int]],
    joins: Iterable[Join],
    factors: Sequence[Factor],
) -> list[Link]:
    """All links; ``at_site`` holds site, place along its axis, and number of every group there."""
    by_site: dict[int, list[tuple[int, int]]] = {}
    for site, at, number in at_site:
        by_site.setdefault(site, []).append((at, number))
    found: dict[Link, None] = {}
    for src, dst, kind in record.links:
        for at, i in by_site.get(src.site.id, ()):
            for to, j in by_site.get(dst.site.id, ()):
                aligned = at - src.offset == to - dst.offset
                if aligned and kind != "cat" and _agree(groups, i, j, factors):
                    found[Link(i, j, kind)] = None  # type: ignore[arg-type]
    for join in joins:
        for ref in join.sites:
            for at, i in by_site.get(ref.site.id, ()):
                if at == ref.offset and _agree(groups, i, join.group, factors):
                    found[Link(i, join.group)] = None
    return list(found)


def _agree(groups: Sequence[NodeGroup], i: int, j: int, factors: Sequence[Factor]) -> bool:
    """Whether the neurons of one group are, but for repetition or a sum, those of the other.

    All factors of the one are among those of the other: groups that merely share their heads, as
    keys and values do, are not linked. Which index of a conditional factor is meant depends on its
    parents, so these must be shared too.
    """
    if i == j:
        return False
    a, b = set(groups[i].factors), set(groups[j].factors)
    shared = a & b
    if a == b:
        return groups[i].factors == groups[j].factors
    if not shared or shared not in (a, b):
        return False
    return all(set(factors[f].parents) <= shared for f in shared)
