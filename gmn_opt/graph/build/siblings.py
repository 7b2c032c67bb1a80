"""Labels for parameters that no pass has read, from siblings that were read.

An expert without tokens has no labels of its own. Where a container holds at least two other
modules of the same kind that were read, and these meet their surroundings in exactly the same way
(the same residual stream on the same dims), the unread one is taken to do so too: index sets that
are shared with the surroundings are shared by it as well, those inside of a sibling get a copy.
Layers of a chain do not meet their surroundings in the same way, so they are left alone.

The numerical check then puts the unread module in the place of a sibling, with its own weights, and
looks whether the symmetries still hold (:mod:`gmn_opt.graph.verify`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from gmn_opt.graph.calls import Exchange
from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.index_sets import IndexSet, find
from gmn_opt.graph.tracing.labels import Axis, Leg, Site, SiteRef
from gmn_opt.graph.tracing.record import Pair, Record

MIN_SIBLINGS = 2


class Adoption(NamedTuple):
    """An unread module, the siblings that were read, and the parameters so labelled."""

    path: str
    siblings: tuple[str, ...]
    parameters: tuple[int, ...]


def exchanges(adoptions: Sequence[Adoption]) -> list[Exchange]:
    """In as few rounds as possible, a place among its siblings for every unread module."""
    rounds: list[Exchange] = []
    for found in adoptions:
        for swaps in rounds:
            free = [s for s in found.siblings if s not in swaps.values()]
            if free:
                swaps[found.path] = free[0]
                break
        else:
            rounds.append({found.path: found.siblings[0]})
    return rounds


def adopt(model: nn.Module, record: Record) -> list[Adoption]:
    """Label what was not read where siblings allow it."""
    index = {name: i for i, name in enumerate(record.names)}
    adopted: list[Adoption] = []
    for path, module, siblings in _unread(model, index, record.touched):
        mine = _parameters(path, module, index)
        others = [_parameters(p, m, index) for p, m in siblings]
        if len(others) < MIN_SIBLINGS or any(len(o) != len(mine) for o in others):
            continue
        owners = _owners(record)
        if len({_signature(record, owners, o) for o in others}) > 1:
            continue
        _Copy(record, dict(zip(others[0], mine, strict=True)), owners).run()
        adopted.append(Adoption(path, tuple(p for p, _ in siblings), tuple(mine)))
    return adopted


def _unread(
    model: nn.Module, index: dict[str, int], read: set[int]
) -> Iterator[tuple[str, nn.Module, list[tuple[str, nn.Module]]]]:
    """Unread members of containers, each with its read siblings."""
    for path, container in model.named_modules():
        if not isinstance(container, (nn.ModuleList, nn.ModuleDict)):
            continue
        prefix = f"{path}." if path else ""
        members = [(prefix + name, m) for name, m in container.named_children()]
        touched = {p: {i in read for i in _parameters(p, m, index)} for p, m in members}
        for name, module in members:
            if touched[name] == {False}:
                siblings = [x for x in members if touched[x[0]] == {True} and _alike(x[1], module)]
                yield name, module, siblings


def _parameters(path: str, module: nn.Module, index: dict[str, int]) -> list[int]:
    names = [f"{path}.{n}" for n, _ in module.named_parameters()]
    return [index[n] for n in names if n in index]


def _alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules run the same code with the same settings on the same shapes."""
    shapes = [[(n, p.shape) for n, p in m.named_parameters()] for m in (a, b)]
    return type(a) is type(b) and shapes[0] == shapes[1] and _settings(a) == _settings(b)


def _settings(module: nn.Module) -> list[Any]:
    """Types and plain attributes of all submodules, but for those that number them."""
    return [
        (name, type(m), repr(m), {k: v for k, v in vars(m).items() if _is_setting(k, v)})
        for name, m in module.named_modules()
    ]


def _is_setting(name: str, value: Any) -> bool:
    numbering = any(word in name for word in ("idx", "index", "layer_id", "number"))
    return isinstance(value, (bool, int, float, str, tuple)) and not numbering


def _leaves(one: IndexSet) -> Iterator[IndexSet]:
    root = find(one)
    below = list(sets.children(root))
    if not below:
        yield root
    for child in below:
        yield from _leaves(child)


def _owners(record: Record) -> dict[IndexSet, set[int]]:
    """Leaf to the parameters that have it."""
    owners: dict[IndexSet, set[int]] = {}
    for i, label in enumerate(record.parameters):
        for axis in label.axes:
            for leg in axis:
                for leaf in _leaves(leg.set):
                    owners.setdefault(leaf, set()).add(i)
    return owners


def _signature(record: Record, owners: dict[IndexSet, set[int]], own: list[int]) -> Any:
    """The structure of some parameters' dims: inner leaves numbered, outer ones as they are."""
    numbers: dict[IndexSet, int] = {}

    def shape(one: IndexSet) -> Any:
        root = find(one)
        if root.factors is not None:
            return ("product", *map(shape, root.factors))
        if root.segments is not None:
            return ("sum", *(tuple(map(shape, s)) for s in root.segments))
        if root.members is not None:
            return ("family", id(root))
        if owners[root] <= set(own):
            return (root.size, root.fixed, numbers.setdefault(root, len(numbers)))
        return (root.size, id(root))

    return tuple(
        tuple(tuple(shape(leg.set) for leg in axis) for axis in record.parameters[i].axes)
        for i in own
    )


class _Copy:
    """Copies all that is known about a module's parameters to those of its sibling."""

    def __init__(
        self,
        record: Record,
        twins: dict[int, int],
        owners: dict[IndexSet, set[int]],
    ) -> None:
        self.record = record
        self.twins = twins
        inner = {n for n, found in owners.items() if found <= twins.keys()}
        self.fresh = {n: IndexSet(n.size, n.fixed) for n in inner}
        renamed = {record.names[old]: record.names[new] for old, new in twins.items()}
        self.sites: dict[Site, Site] = {}
        for site in record.sites:
            if site.name in renamed and site.kind == "hidden":
                self.sites[site] = Site(renamed[site.name], site.kind)
                self.sites[site].activation = site.activation
                self.sites[site].facts = site.facts

    def run(self) -> None:
        """Copy labels, uses, links, and what was seen together."""
        record = self.record
        for old, new in self.twins.items():
            mine, theirs = record.parameters[new], record.parameters[old]
            for a, b in zip(mine.axes, theirs.axes, strict=True):
                sets.unify(lab.sets_of(a), [self.copied(leg.set) for leg in b])
        for site, copied in self.sites.items():
            copied.axis = self.axis(site.axis)
        record.sites.extend(self.sites.values())
        for use in list(record.uses):
            indices = {i for p in use.pairs for leg in p.parameter for i, _, _ in leg.origins}
            if indices and indices <= self.twins.keys():
                pairs = [Pair(p.role, self.axis(p.parameter), self.axis(p.activation))
                         for p in use.pairs]  # fmt: skip
                record.uses.append(replace(use, pairs=pairs, parameters=set()))
        for src, dst, kind in list(record.links):
            if src.site in self.sites or dst.site in self.sites:
                record.link(self.ref(src), self.ref(dst), kind)
        for axes in list(record.seen):
            if any(leaf in self.fresh for a in axes for g in a for leaf in _leaves(g.set)):
                record.seen.append(tuple(map(self.axis, axes)))

    def copied(self, one: IndexSet) -> IndexSet:
        """The copy of a set that has inner leaves; any other set itself."""
        root = find(one)
        if root in self.fresh:
            return self.fresh[root]
        if not any(leaf in self.fresh for leaf in _leaves(root)):
            return root
        made = IndexSet(root.size, root.fixed)
        self.fresh[root] = made
        if root.factors is not None:
            made.factors = tuple(map(self.copied, root.factors))
        if root.segments is not None:
            made.segments = tuple(tuple(map(self.copied, s)) for s in root.segments)
        return made

    def ref(self, ref: SiteRef | None) -> SiteRef | None:
        """A site's copy, or the site itself where it lies outside."""
        return None if ref is None else ref._replace(site=self.sites.get(ref.site, ref.site))

    def axis(self, axis: Axis) -> Axis:
        """An axis with sets, sites and origins copied."""
        return tuple(
            Leg(
                self.copied(leg.set),
                self.ref(leg.site),
                tuple((self.twins.get(i, i), dim, at) for i, dim, at in leg.origins),
                None if leg.parts is None else tuple(map(self.axis, leg.parts)),
            )
            for leg in axis
        )
