"""Axis labels while tracing: axes written as products of legs.

A ``Leg`` is an index set as it occurs in one tensor: with the activation site that it comes from,
and, for tensors computed from parameters alone, with the parameter dims that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import NamedTuple

from gmn_opt.graph.index_sets import Node, find

_serial = count()


class Fact(NamedTuple):
    """What neurons serve for (queries, keys, values, gates), from ``offset`` of their site on."""

    name: str
    offset: int
    heads: int = 0
    dims: int = 0


class Site:
    """A place where neurons come to be: an input, or the output axis of a parameter."""

    __slots__ = ("activation", "axis", "facts", "id", "kind", "name")

    def __init__(self, name: str, kind: str, axis: Axis = ()) -> None:
        self.id = next(_serial)
        self.name = name
        self.kind = kind  # "input", "index" or "hidden"
        self.axis = axis
        self.activation: str | None = None
        self.facts: set[Fact] = set()


class SiteRef(NamedTuple):
    """A site, or the part of its axis that starts at ``offset``."""

    site: Site
    offset: int = 0

    def shifted(self, by: int) -> SiteRef:
        """The part that starts ``by`` further on."""
        return SiteRef(self.site, self.offset + by)


class Leg(NamedTuple):
    """A node as it occurs in a tensor.

    ``origins`` holds (parameter index, dim, offset) for tensors made of parameters alone;
    ``parts`` keeps the axes of a concatenation with the sites of their own.
    """

    node: Node
    site: SiteRef | None = None
    origins: tuple[tuple[int, int, int], ...] = ()
    parts: tuple[Axis, ...] | None = None

    def shifted(self, by: int) -> Leg:
        """The leg of the part of its axis that starts ``by`` further on."""
        site = self.site.shifted(by) if self.site else None
        origins = tuple((p, dim, at + by) for p, dim, at in self.origins)
        return self._replace(site=site, origins=origins)


Axis = tuple[Leg, ...]


def nodes_of(axis: Axis) -> tuple[Node, ...]:
    """The nodes of an axis, without sites."""
    return tuple(leg.node for leg in axis)


def expand_axis(axis: Axis) -> list[Leg]:
    """Legs with every product written out, each part inheriting site and origins."""
    out: list[Leg] = []
    for leg in axis:
        root = find(leg.node)
        if root.factors is None:
            out.append(Leg(root, leg.site, leg.origins, leg.parts if root.segments else None))
        else:
            out.extend(expand_axis(tuple(Leg(f, leg.site, leg.origins) for f in root.factors)))
    return out


def newest(axes: Iterable[Axis]) -> SiteRef | None:
    """The most recent site among the legs of some axes."""
    refs = [leg.site for axis in axes for leg in axis if leg.site is not None]
    return max(refs, key=lambda r: r.site.id) if refs else None


def with_sites(axis: Axis, known: dict[Node, Leg]) -> Axis:
    """The same axis; legs without a site take that of the same index set in ``known``."""
    out: list[Leg] = []
    for leg in expand_axis(axis):
        if leg.site is None and leg.node in known:
            leg = known[leg.node]
        elif leg.node.segments is not None and (leg.site is None or leg.parts is not None):
            parts = leg.parts or tuple(tuple(map(Leg, s)) for s in leg.node.segments)
            parts = tuple(with_sites(p, known) for p in parts)
            site = newest(parts)
            leg = leg._replace(site=site, parts=parts) if site is not None else leg
        out.append(leg)
    return tuple(out)
