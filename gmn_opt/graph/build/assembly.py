"""From what a traced pass left behind to a parameter graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from gmn_opt.graph.build.conditions import parents_of
from gmn_opt.graph.build.links import Join, find_links
from gmn_opt.graph.build.naming import part_name, short, told_apart
from gmn_opt.graph.graph import ParameterGraph
from gmn_opt.graph.structure import Block, BlockKind, BlockUse, DimRole, Factor, NodeGroup
from gmn_opt.graph.tracing.index_sets import IndexSet
from gmn_opt.graph.tracing.labels import Fact, Label, Leg, SiteRef, axis_size
from gmn_opt.graph.tracing.pieces import Piece, by_member, distribute, settle
from gmn_opt.graph.tracing.record import Record, Use

GroupKey = tuple[int, int, tuple[IndexSet, ...]]


class Met(NamedTuple):
    """How one leaf of a parameter dim was used once."""

    use: int
    role: DimRole
    site: SiteRef | None
    offset: int


ENDS: dict[DimRole, str] = {"dst": "out", "src": "in"}


class Assembler:
    """Builds one graph; factors and groups get ids in the order of the parameters."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.factors: dict[IndexSet, int] = {}
        self.factor_list: list[Factor] = []
        self.groups: dict[GroupKey | str, int] = {}
        self.group_list: list[NodeGroup] = []
        self.joins: dict[Join, None] = {}
        self.met: list[dict[tuple[int, IndexSet], list[Met]]] = [{} for _ in record.names]
        for number, use in enumerate(record.uses):
            self._read_use(number, use)

    def _read_use(self, number: int, use: Use) -> None:
        for pair in use.pairs:
            mine, theirs = distribute(pair.parameter), distribute(pair.activation)
            for i, piece in enumerate(mine):
                other = theirs[i].legs if len(theirs) == len(mine) else ()
                for k, leg in enumerate(piece.legs):
                    site = other[k].site if len(other) == len(piece.legs) else None
                    for index, dim, at in leg.origins:
                        found = self.met[index].setdefault((dim, leg.set), [])
                        found.append(Met(number, pair.role, site, at))

    # ------------------------------------------------------------------ factors and groups

    def factor(self, leaf: IndexSet, name: str) -> int:
        """The id of a leaf."""
        if leaf not in self.factors:
            self.factors[leaf] = len(self.factor_list)
            self.factor_list.append(Factor(len(self.factor_list), leaf.size, name, leaf.fixed))
        return self.factors[leaf]

    def group(self, ref: SiteRef, wanted: Sequence[IndexSet]) -> tuple[int, tuple[IndexSet, ...]]:
        """The group of a site that has the leaves ``wanted``, made when first asked for."""
        site = ref.site
        leaves = tuple(n for n in wanted if n.size > 1) or tuple(wanted[:1])
        index: Sequence[int] = range(1)
        if site.kind == "hidden":
            piece = _home(ref, wanted)
            if piece is not None:
                index = piece.where
                nodes = [leg.set for leg in piece.legs]
                leaves = tuple(dict.fromkeys(n for n in nodes if n.size > 1)) or tuple(nodes[:1])
        key: GroupKey = (site.id, index[0], leaves)
        if key not in self.groups:
            name = short(site.name)
            pieces = distribute(site.axis)
            if len(pieces) > 1 and site.kind == "hidden":
                name += part_name(site, pieces, index)
            ids = tuple(self.factor(n, name) for n in leaves)
            role = "input" if site.kind in ("input", "index") else "hidden"
            self.groups[key] = len(self.group_list)
            self.group_list.append(
                NodeGroup(len(self.group_list), name, role, ids, site.activation)  # type: ignore[arg-type]
            )
        return self.groups[key], leaves

    def single(self, name: str, role: str, leaves: Sequence[IndexSet] = ()) -> int:
        """A group of a tensor's own."""
        key = f"{name}/{role}/{[n.serial for n in leaves]}"
        if key not in self.groups:
            ids = tuple(self.factor(n, name) for n in leaves)
            self.groups[key] = len(self.group_list)
            self.group_list.append(NodeGroup(len(self.group_list), name, role, ids))  # type: ignore[arg-type]
        return self.groups[key]

    # ------------------------------------------------------------------ blocks

    def blocks_of(self, index: int) -> list[Block]:
        """All blocks of a parameter."""
        name = self.record.names[index]
        label = self.record.parameters[index]
        if any(axis_size(axis) == 0 for axis in label.axes):
            return [self._empty(name, [axis_size(axis) for axis in label.axes])]
        return [
            self._block(index, name, combo)
            for pieces in by_member(label.axes)
            for combo in product(*pieces)
        ]

    def _empty(self, name: str, shape: Sequence[int]) -> Block:
        """The block of a parameter without elements."""
        reason = "a parameter without elements"
        dims = tuple((self.factor(IndexSet(size, reason), name),) for size in shape)
        roles: tuple[tuple[DimRole, ...], ...] = (("kernel",),) * len(shape)
        src, dst = self.single(name, "bias"), self.single(f"{name} out", "hidden")
        return Block(name, "other", tuple(map(range, shape)), dims, roles, src, dst)

    def _block(self, index: int, name: str, pieces: tuple[Piece, ...]) -> Block:
        leaves = [(d, leg.set) for d, piece in enumerate(pieces) for leg in piece.legs]
        met = {key: self._met_at(index, key, pieces[key[0]].start) for key in leaves}
        use_number = self._best_use(met, leaves)
        chosen: dict[tuple[int, IndexSet], Met] = {}
        for key in leaves:
            found = met.get(key, [])
            best = [m for m in found if m.use == use_number] or found
            best.sort(key=lambda m: m.role != "dst")
            if best:
                chosen[key] = best[0]
        use = self.record.uses[use_number] if use_number is not None else None
        ends: dict[DimRole, tuple[int, tuple[IndexSet, ...]]] = {}
        for role in ENDS:
            sites = [
                (key[1], m.site)
                for key in leaves
                for m in met.get(key, [])
                if m.role == role and (key not in chosen or m.use == chosen[key].use)
            ]
            picked = _main_site(sites)
            home = _home(picked, [n for n, _ in sites]) if picked is not None else None
            mixed = [n for n, _ in sites if picked is None or not _belongs(picked, n, home)]
            if any(n.fixed is None and n.size > 1 for n in mixed):
                # Free neurons of several sites, or of none: a group of products of its own.
                nodes = tuple(dict.fromkeys(n for n, _ in sites if n.size > 1))
                ends[role] = self.single(f"{name} {ENDS[role]}", "hidden", nodes), nodes
                refs = tuple(dict.fromkeys(ref for _, ref in sites if ref is not None))
                self.joins[Join(refs, ends[role][0])] = None
            elif picked is not None:
                inside = [n for n, _ in sites if _belongs(picked, n, home)]
                ends[role] = self.group(picked, inside or [sites[-1][0]])
        roles: dict[tuple[int, IndexSet], DimRole] = {}
        for key in leaves:
            role = chosen[key].role if key in chosen else "kernel"
            if role != "kernel" and (role not in ends or key[1] not in ends[role][1]):
                role = "kernel"
            if role != "kernel" and any(r == role and k[1] is key[1] for k, r in roles.items()):
                role = "kernel"
            roles[key] = role
        kind: BlockKind = use.kind if use is not None else "other"
        if "src" not in ends:
            # an axis of size one has no leaf: its single source neuron stands for itself
            alone = kind in ("linear", "conv") and len(pieces) > 1
            if kind in ("linear", "conv", "embedding") and not alone:
                kind = "bias" if len(pieces) < 2 else "other"
            src = self.single(f"{name} in", "input") if alone else self.single(name, "bias")
        else:
            src = ends["src"][0]
        dst = ends["dst"][0] if "dst" in ends else self.single(f"{name} out", "hidden")
        dims, dim_roles = [], []
        for d, piece in enumerate(pieces):
            legs = [g for g in piece.legs if g.set.size > 1] or list(piece.legs[:1])
            dims.append(tuple(self.factor(g.set, name) for g in legs))
            dim_roles.append(tuple(roles[d, g.set] for g in legs))
        return Block(
            name,
            kind,
            tuple(piece.where for piece in pieces),  # type: ignore[misc]
            tuple(dims),
            tuple(dim_roles),
            src,
            dst,
            dict(use.attributes) if use is not None else {},
            self._uses(index, met),
        )

    def _uses(self, index: int, met: dict[tuple[int, IndexSet], list[Met]]) -> tuple[BlockUse, ...]:
        """Every way in which a block is used, each once."""
        numbers = {m.use for found in met.values() for m in found}
        if not numbers:  # what has axes of size one alone leaves no leaf behind
            numbers = {n for n, use in enumerate(self.record.uses) if index in use.parameters}
        uses: dict[BlockUse, None] = {}
        for number in sorted(numbers):
            use = self.record.uses[number]
            facts, (heads, dims) = set(use.facts), use.heads
            for fact in self._facts(number, met):
                facts.add(fact.name)
                heads, dims = fact.heads or heads, fact.dims or dims
            kind = "scale" if index in self.record.scalings else use.kind
            uses[BlockUse(kind, tuple(sorted(facts)), heads, dims)] = None
        return tuple(uses)

    def _facts(self, number: int, met: dict[tuple[int, IndexSet], list[Met]]) -> list[Fact]:
        """What is known about the neurons that a block leads to in one use."""
        ends = [(key[1], m.site) for key, found in met.items() for m in found
                if m.use == number and m.role == "dst" and m.site is not None]  # fmt: skip
        if not ends:
            return []
        ref = max((site for _, site in ends), key=lambda r: (r.site.id, r.offset))
        home = _home(ref, [one for one, _ in ends])
        return [f for f in ref.site.facts if home is not None and f.offset in home.where]

    def _met_at(self, index: int, key: tuple[int, IndexSet], offset: int) -> list[Met]:
        """How a leaf was used, in the part of its axis at ``offset`` where that is known."""
        found = self.met[index].get(key, [])
        return [m for m in found if m.offset == offset] or found

    def _best_use(
        self, met: dict[tuple[int, IndexSet], list[Met]], leaves: Iterable[tuple[int, IndexSet]]
    ) -> int | None:
        votes: dict[int, int] = {}
        for key in leaves:
            known = {m.use: m.site is not None for m in met.get(key, [])}
            for number, sited in known.items():
                votes[number] = votes.get(number, 0) + 1 + sited
        if not votes:
            return None
        most = max(votes.values())
        return min(u for u, n in votes.items() if n == most)


def _home(ref: SiteRef, wanted: Sequence[IndexSet]) -> Piece | None:
    """The piece of a site's axis that holds most of ``wanted``, at its offset if in doubt."""
    best: Piece | None = None
    score = (0, False)
    for piece in distribute(ref.site.axis):
        hits = sum(any(leg.set is w for w in wanted) for leg in piece.legs)
        mark = (hits, piece.start == ref.offset)
        if hits and mark > score:
            best, score = piece, mark
    return best


def _belongs(ref: SiteRef, leaf: IndexSet, home: Piece | None = None) -> bool:
    """Whether a leaf is one of a site's, or of one piece of it."""
    if ref.site.kind != "hidden":
        return True
    pieces = distribute(ref.site.axis) if home is None else [home]
    return any(leg.set is leaf for p in pieces for leg in p.legs)


def _main_site(found: Sequence[tuple[IndexSet, SiteRef | None]]) -> SiteRef | None:
    """The site that most of the elements belong to; inputs only if nothing else is there."""
    best: SiteRef | None = None
    score = (-1.0, -1.0, -1)
    for ref in dict.fromkeys(r for _, r in found if r is not None):
        size = 1
        for leaf, other in found:
            inside = _belongs(ref, leaf) if ref.site.kind == "hidden" else other == ref
            size *= leaf.size if inside else 1
        mark = (float(ref.site.kind == "hidden"), float(size), ref.site.id)
        if mark > score:
            best, score = ref, mark
    return best


def assemble(
    record: Record, shapes: dict[str, tuple[int, ...]], aliases: dict[str, str]
) -> ParameterGraph:
    """Blocks, groups, links and conditions of finished passes."""
    for label in record.parameters:
        settle(label.axes)
    a = Assembler(record)
    blocks = [b for index in range(len(record.names)) for b in a.blocks_of(index)]
    buffer_blocks = [
        b for name, label in record.statistics.items() for b in _buffer(a, name, label, blocks)
    ]
    outputs = {
        leg.site.site.id for out in record.outputs for axis in out.axes for leg in axis if leg.site
    }
    for key, number in a.groups.items():
        group = a.group_list[number]
        if isinstance(key, tuple) and key[0] in outputs and group.role == "hidden":
            a.group_list[number] = replace(group, role="output")
    parents = parents_of(record, a.factors)
    factors = tuple(replace(f, parents=parents.get(f.id, ())) for f in a.factor_list)
    reasons = {
        name: tuple(_reason(axis) for axis in record.parameters[i].axes)
        for i, name in enumerate(record.names)
    }
    at_site = [(k[0], k[1], n) for k, n in a.groups.items() if isinstance(k, tuple)]
    return ParameterGraph(
        factors,
        told_apart(a.group_list, blocks, shapes),
        tuple(blocks),
        tuple(find_links(record, a.group_list, at_site, a.joins, factors)),
        shapes,
        tuple(buffer_blocks),
        reasons,
        aliases,
    )


def _reason(axis: Sequence[Leg]) -> str:
    leaves = [leg.set for piece in distribute(tuple(axis)) for leg in piece.legs]
    if any(n.fixed is None and n.size > 1 for n in leaves):
        return ""
    return next((n.fixed for n in leaves if n.fixed), "an axis of size one")


def _buffer(a: Assembler, name: str, label: Label, blocks: list[Block]) -> list[Block]:
    pieces = [distribute(axis) for axis in label.axes]
    known = {id(n) for n in a.factors}
    if not any(id(g.set) in known for ps in pieces for p in ps for g in p.legs):
        return []
    made = []
    for combo in product(*pieces):
        dims = tuple(
            tuple(a.factor(g.set, name) for g in p.legs if g.set.size > 1 or len(p.legs) == 1)
            for p in combo
        )
        wanted = {f for dim in dims for f in dim}
        owner = next(
            (g.id for g in reversed(a.group_list) if wanted and wanted <= set(g.factors)), None
        )
        if owner is None:
            nodes = [g.set for p in combo for g in p.legs]
            owner = a.single(name, "hidden", nodes)
        roles: tuple[tuple[DimRole, ...], ...] = tuple(tuple("dst" for _ in d) for d in dims)
        index = tuple(p.where for p in combo)
        made.append(Block(name, "other", index, dims, roles, owner, owner))  # type: ignore[arg-type]
    return made
