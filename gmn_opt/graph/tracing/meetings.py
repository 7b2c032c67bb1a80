"""What happens where tensors meet: axes become one, sites are linked, parameters are used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import Tensor

from gmn_opt.graph.structure import BlockKind
from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Axis, Label, Leg, Site, SiteRef
from gmn_opt.graph.tracing.operators import NONLINEAR
from gmn_opt.graph.tracing.record import Pair, Record, Use
from gmn_opt.graph.tracing.table import NoRuleError

SiteKey = tuple[str, str, int]


class Meetings:
    """The part of a tracer that joins axes and records what parameters do there."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.op = ""
        self.earlier: dict[SiteKey, Site] = {}
        self.made_in_pass: dict[SiteKey, Site] = {}
        self.made: Counter[tuple[str, str]] = Counter()

    def unify(self, a: Axis, b: Axis, reason: str = "") -> None:
        """Make two axes the same index set."""
        sets.unify(lab.sets_of(a), lab.sets_of(b), reason or f"axes that do not fit in {self.op}")

    def meet(self, a: Axis, b: Axis, kind: str = "residual") -> Axis:
        """Unify two activation axes; the newest site goes on, and the meeting is linked."""
        if a == b:
            return a
        self.unify(a, b)
        left, right = lab.expand_axis(a), lab.expand_axis(b)
        if [x.set for x in left] != [x.set for x in right]:
            return a if len(a) else b
        out: list[Leg] = []
        for x, y in zip(left, right, strict=True):
            old, new = by_age(x, y)
            self.record.link(old.site, new.site, kind)
            parts = _meet_parts(self, old, new, kind)
            out.append(Leg(new.set, new.site, x.origins + y.origins, parts))
        return tuple(out)

    def new_site(self, axis: Axis, name: str, kind: str = "hidden") -> Axis:
        """The same axis, as neurons of a new site, or of the one that an earlier pass had here."""
        legs = lab.expand_axis(axis)
        key = (name, kind, self.made[name, kind])
        self.made[name, kind] += 1
        site = self.earlier.get(key)
        if site is None or [g.set for g in lab.expand_axis(site.axis)] != [g.set for g in legs]:
            site = Site(name, kind)
            self.record.sites.append(site)
            site.axis = tuple(Leg(leg.set, SiteRef(site), ()) for leg in legs)
        self.made_in_pass[key] = site
        return tuple(Leg(leg.set, SiteRef(site), ()) for leg in legs)

    def new_sites(self, axes: Sequence[Axis], name: str) -> list[Axis]:
        """Some axes as neurons of one new site."""
        sited = iter(self.new_site(tuple(leg for axis in axes for leg in axis), name))
        return [tuple(next(sited) for _ in lab.expand_axis(axis)) for axis in axes]

    def use(self, kind: BlockKind, pairs: list[Pair], **attributes: float) -> None:
        """Remember how parameters act on activations."""
        self.record.uses.append(Use(kind, pairs, attributes))

    def origin_name(self, axes: Iterable[Axis]) -> str:
        """The name of the parameter behind some axes."""
        for axis in axes:
            for leg in axis:
                for index, _, _ in leg.origins:
                    return self.record.names[index]
        return "constant"

    def materialize(self, label: Label) -> Label:
        """Turn a tensor of parameters into activations of a site of its own."""
        if label.kind != "parameter":
            return label
        new = self.new_sites(label.axes, self.origin_name(label.axes))
        self.use("other", [Pair("dst", p, x) for p, x in zip(label.axes, new, strict=True)])
        return Label(tuple(new), "activation")

    def pointwise(self, name: str, outputs: list[Tensor], labels: list[Label]) -> list[Label]:
        """Any operator that acts on each element alone, with broadcasting."""
        if not labels:
            raise NoRuleError(f"{name} makes a tensor from nothing")
        result = self.broadcast(labels, outputs[0].shape, _flavour(name))
        if name.rstrip("_") in NONLINEAR:
            for axis in result.axes:
                for leg in axis:
                    site = leg.site.site if leg.site is not None else None
                    if site is not None and site.kind == "hidden" and site.activation is None:
                        site.activation = name.rstrip("_")
        return [result for _ in outputs]

    def broadcast(self, operands: list[Label], shape: Sequence[int], flavour: str) -> Label:
        """The label of broadcast operands, with all uses and links that the meeting makes."""
        if any(x.kind == "parameter" and any(x.axes) for x in operands):
            # A number computed on the way, such as a spectral norm, leaves a weight a weight.
            operands = [x if any(x.axes) else x._replace(kind="constant") for x in operands]
        if lab.joint_kind(operands) == "activation":
            acts = [x for x in operands if x.kind == "activation"]
            params = [x for x in operands if x.kind == "parameter"]
            others = [x for x in operands if x.kind == "constant"]
            axes = self._merge_all([*acts, *others], shape, flavour)
            for param in params:
                axes = self._apply_parameter(param, axes, shape, flavour)
            return Label(tuple(axes), "activation")
        axes = self._merge_all(operands, shape, flavour)
        return Label(tuple(axes), lab.joint_kind(operands))

    def _merge_all(self, operands: list[Label], shape: Sequence[int], flavour: str) -> list[Axis]:
        link = "product" if flavour == "scale" else "residual"
        out: list[Axis] = []
        for k, size in enumerate(shape):
            axis: Axis = ()
            for x in operands:
                other = _aligned(x, k, len(shape), size)
                if other is not None:
                    axis = self.meet(axis, other, link) if axis else other
            out.append(axis)
        return out

    def _apply_parameter(
        self, param: Label, axes: list[Axis], shape: Sequence[int], flavour: str
    ) -> list[Axis]:
        pairs: list[Pair] = []
        own: list[tuple[int, Axis]] = []
        out = list(axes)
        for k, size in enumerate(shape):
            other = _aligned(param, k, len(shape), size)
            if other is None:
                continue
            if not axes[k] and size == 1:
                continue
            if lab.axis_size(axes[k]) != size:
                own.append((k, other))
                continue
            self.unify(axes[k], other)
            pairs.append(Pair("dst", other, axes[k]))
        if own:
            mine = [axis for _, axis in own]
            made = self.new_sites(mine, self.origin_name(mine))
            for (k, axis), out[k] in zip(own, made, strict=True):
                pairs.append(Pair("dst", axis, out[k]))
        kind: BlockKind = "scale" if flavour == "scale" else "bias"
        self.use(kind if flavour in ("scale", "bias") else "other", pairs)
        return out


def by_age(x: Leg, y: Leg) -> tuple[Leg, Leg]:
    """Two legs, the one of the older site first; none is oldest."""
    a, b = (-1 if leg.site is None else leg.site.site.id for leg in (x, y))
    return (x, y) if a <= b else (y, x)


def _meet_parts(tracer: Meetings, old: Leg, new: Leg, kind: str) -> tuple[Axis, ...] | None:
    if old.parts is None or new.parts is None or len(old.parts) != len(new.parts):
        return new.parts if new.parts is not None else old.parts if new.site is None else None
    return tuple(tracer.meet(a, b, kind) for a, b in zip(old.parts, new.parts, strict=True))


def _flavour(name: str) -> str:
    base = name.rstrip("_")
    if base in ("add", "sub", "rsub", "addcmul", "addcdiv", "copy"):
        return "bias"
    return "scale" if base in ("mul", "div", "true_divide") else "other"


def _aligned(label: Label, k: int, ndim: int, size: int) -> Axis | None:
    at = k - (ndim - len(label.axes))
    if at < 0:
        return None
    axis = label.axes[at]
    if not axis and size == 1:
        return None
    return axis if lab.axis_size(axis) == size else None
