"""Axis labels while tracing: axes written as products of legs.

A ``Leg`` is an index set as it occurs in one tensor: with the activation site that it comes from,
and, for tensors computed from parameters alone, with the parameter dims that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Literal, NamedTuple

from gmn_opt.graph.tracing.index_sets import IndexSet, find, size_of

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
    """An index set as it occurs in a tensor.

    ``origins`` holds (parameter index, dim, offset) for tensors made of parameters alone;
    ``parts`` keeps the axes of a concatenation with the sites of their own.
    """

    set: IndexSet
    site: SiteRef | None = None
    origins: tuple[tuple[int, int, int], ...] = ()
    parts: tuple[Axis, ...] | None = None

    def shifted(self, by: int) -> Leg:
        """The leg of the part of its axis that starts ``by`` further on."""
        site = self.site.shifted(by) if self.site else None
        origins = tuple((p, dim, at + by) for p, dim, at in self.origins)
        return self._replace(site=site, origins=origins)


Axis = tuple[Leg, ...]
LabelKind = Literal["constant", "parameter", "activation"]


class Label(NamedTuple):
    """One axis per dim of a tensor, and what the tensor was computed from."""

    axes: tuple[Axis, ...]
    kind: LabelKind = "activation"
    uniform: bool = False

    def with_axes(self, axes: Iterable[Axis]) -> Label:
        """The same tensor with other axes."""
        return Label(tuple(axes), self.kind, self.uniform)

    def with_axis(self, dim: int, axis: Axis) -> Label:
        """The same tensor with another axis ``dim``."""
        axes = list(self.axes)
        axes[dim] = axis
        return self.with_axes(axes)


def new_axis(size: int, fixed: str | None = None, site: SiteRef | None = None) -> Axis:
    """An axis over an index set of its own; ``fixed`` is the reason why its order matters."""
    return (Leg(IndexSet(size, fixed), site),)


def new_axes(
    shape: Iterable[int], fixed: str | None = None, site: SiteRef | None = None
) -> tuple[Axis, ...]:
    """A new axis for every dim of a shape."""
    return tuple(new_axis(size, fixed, site) for size in shape)


def chosen(dims: int | Iterable[int], count: int) -> set[int]:
    """Some of ``count`` dims as an operator was given them, counted from the front."""
    return {d % count for d in ([dims] if isinstance(dims, int) else dims)}


def axis_size(axis: Axis) -> int:
    """Number of indices along an axis."""
    return size_of(leg.set for leg in axis)


def joint_kind(labels: Sequence[Label]) -> LabelKind:
    """What a tensor is computed from that holds all of some tensors."""
    kinds = {label.kind for label in labels}
    return next((k for k in ("activation", "parameter") if k in kinds), "constant")


def sets_of(axis: Axis) -> tuple[IndexSet, ...]:
    """The index sets of an axis, without sites."""
    return tuple(leg.set for leg in axis)


def expand_axis(axis: Axis) -> list[Leg]:
    """Legs with every product written out, each part inheriting site and origins."""
    out: list[Leg] = []
    for leg in axis:
        root = find(leg.set)
        if root.factors is None:
            out.append(Leg(root, leg.site, leg.origins, leg.parts if root.segments else None))
        else:
            out.extend(expand_axis(tuple(Leg(f, leg.site, leg.origins) for f in root.factors)))
    return out


def newest(axes: Iterable[Axis]) -> SiteRef | None:
    """The most recent site among the legs of some axes."""
    refs = [leg.site for axis in axes for leg in axis if leg.site is not None]
    return max(refs, key=lambda r: r.site.id) if refs else None


def with_sites(axis: Axis, known: dict[IndexSet, Leg]) -> Axis:
    """The same axis; legs without a site take that of the same index set in ``known``."""
    out: list[Leg] = []
    for leg in expand_axis(axis):
        if leg.site is None and leg.set in known:
            leg = known[leg.set]
        elif leg.set.segments is not None and (leg.site is None or leg.parts is not None):
            parts = leg.parts or tuple(tuple(map(Leg, s)) for s in leg.set.segments)
            parts = tuple(with_sites(p, known) for p in parts)
            site = newest(parts)
            leg = leg._replace(site=site, parts=parts) if site is not None else leg
        out.append(leg)
    return tuple(out)
