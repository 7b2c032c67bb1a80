"""Matrix products: the operators in which parameters make new neurons."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.index_sets import IndexSet
from gmn_opt.graph.tracing.labels import Axis, Label, Leg, SiteRef
from gmn_opt.graph.tracing.meetings import by_age
from gmn_opt.graph.tracing.record import Pair
from gmn_opt.graph.tracing.table import NoRuleError, rule
from gmn_opt.graph.tracing.tracer import Tracer


def contract(t: Tracer, a: Label, b: Label, batch: int = 0) -> Label:
    """``[*batch, m, k] @ [*batch, k, n]``, either of them without its free axis when 1-D.

    The contracted axes become one index set. Between activations that is all; where one side is
    made of parameters, its free axis becomes a new site of neurons.
    """
    if a.kind == b.kind == "parameter" and _is_transposed(b):
        a = t.materialize(a)
    a_free, a_in = a.axes[batch:-1], a.axes[-1]
    b_in, b_free = b.axes[batch], b.axes[batch + 1 :]
    t.unify(a_in, b_in)
    t.hidden([*a.axes[:batch], *a_free, *b_free, a_in])
    shared = list(zip(a.axes[:batch], b.axes[:batch], strict=True))
    if (a.kind == "parameter") != (b.kind == "parameter"):
        if b.kind == "parameter":
            batch_axes, made = _apply(t, a_in, b_in, shared, b_free)
            return Label((*batch_axes, *a_free, *made), "activation")
        swapped = [(y, x) for x, y in shared]
        batch_axes, made = _apply(t, b_in, a_in, swapped, a_free)
        return Label((*batch_axes, *made, *b_free), "activation")
    if a.kind == b.kind == "parameter":
        middle = t.new_site(a_in, t.origin_name([a_in]))
        t.use("linear", [Pair("dst", b_in, middle)])
        t.use("linear", [Pair("src", a_in, middle)])
        axes = [t.meet(x, y) for x, y in shared]
        return Label((*axes, *a_free, *b_free), "parameter")
    for x, y in zip(lab.expand_axis(a_in), lab.expand_axis(b_in), strict=False):
        old, new = by_age(x, y)
        t.record.link(old.site, new.site, "product")
    free = {leg.site for axis in (*a_free, *b_free) for leg in axis}
    gone = {leg.site for leg in (*a_in, *b_in)} - free
    axes = [_without_sites(t.meet(x, y, "product"), gone) for x, y in shared]
    return Label((*axes, *a_free, *b_free), lab.joint_kind([a, b]))


def _is_transposed(label: Label) -> bool:
    """Whether a matrix of parameters comes as in ``x @ weight.T``: then ``x`` plays the data."""
    if len(label.axes) < 2:
        return False
    dims = [[dim for leg in axis for _, dim, _ in leg.origins] for axis in label.axes[-2:]]
    return bool(dims[0]) and bool(dims[1]) and min(dims[0]) > max(dims[1])


def _without_sites(axis: Axis, gone: set[SiteRef | None]) -> Axis:
    """The same axis; once the dims of a key are summed over, its heads are no neurons of it."""
    return tuple(g._replace(site=None) if g.site in gone else g for g in axis)


def _apply(
    t: Tracer, x_in: Axis, p_in: Axis, shared: list[tuple[Axis, Axis]], p_free: tuple[Axis, ...]
) -> tuple[list[Axis], list[Axis]]:
    """A parameter meets an activation: new batch axes and new free axes, as one new site."""
    for x, p in shared:
        t.unify(x, p)
    made = [p for _, p in shared] + list(p_free)
    new = t.new_sites(made, t.origin_name([p_in]))
    pairs = [Pair("src", p_in, x_in)]
    pairs += [Pair("dst", axis, out) for axis, out in zip(made, new, strict=True)]
    fan_out = prod(map(lab.axis_size, made))
    t.use("linear", pairs, fan_in=lab.axis_size(p_in), fan_out=fan_out)
    return new[: len(shared)], new[len(shared) :]


@rule("mm", "mv", "dot", "vdot")
def mm(t: Tracer, out: Tensor, a: Tensor, b: Tensor, **_: Any) -> Label:
    """Products of matrices and vectors."""
    return contract(t, t.label(a), t.label(b))


@rule("bmm")
def bmm(t: Tracer, out: Tensor, a: Tensor, b: Tensor, **_: Any) -> Label:
    """A batch of matrix products."""
    return contract(t, t.label(a), t.label(b), batch=1)


@rule("addmm", "addmv", "_addmm_activation")
def addmm(t: Tracer, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Label:
    """A matrix product plus a bias."""
    product = contract(t, t.label(a), t.label(b))
    return t.broadcast([t.label(bias), product], out.shape, "bias")


@rule("baddbmm", "addbmm")
def baddbmm(t: Tracer, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Label:
    """A batch of matrix products plus a bias."""
    if out.dim() != 3:
        raise NoRuleError("addbmm sums over its batch")
    product = contract(t, t.label(a), t.label(b), batch=1)
    return t.broadcast([t.label(bias), product], out.shape, "bias")


@rule("_grouped_mm")
def grouped_mm(
    t: Tracer, out: Tensor, a: Tensor, b: Tensor, offsets: Tensor | None = None, *rest: Any,
    **_: Any,
) -> Label:  # fmt: skip
    """Rows that are sorted by expert, ``[rows, k]``, times a matrix per expert, ``[e, k, n]``."""
    data, weight = t.label(a), t.label(b)
    if offsets is None or a.dim() != 2 or b.dim() != 3 or any(rest):
        raise NoRuleError("a grouped product other than of rows with stacked matrices")
    if data.kind == "parameter" or weight.kind != "parameter":
        raise NoRuleError("a grouped product other than of activations with parameters")
    expert, inner, free = weight.axes
    t.fix([expert, *t.label(offsets).axes], "rows are routed to experts")
    t.unify(data.axes[1], inner)
    t.unify(expert, t.routes.setdefault(id(offsets), expert))
    rows = sets.expand(lab.sets_of(data.axes[0]))
    if [n.along[1] for n in rows if n.along is not None] != [id(offsets)]:
        t.hidden([data.axes[1]])
    new = t.new_site((*expert, *free), t.origin_name([expert]))
    count = len(lab.expand_axis(expert))
    pairs = [Pair("src", inner, data.axes[1]), Pair("dst", expert, new[:count])]
    pairs.append(Pair("dst", free, new[count:]))
    t.use("linear", pairs, fan_in=a.shape[1], fan_out=out.shape[1])
    sorted_rows = IndexSet(a.shape[0], "rows are routed to experts")
    if len(expert) == 1:
        sorted_rows.along = expert[0].set, id(offsets)
    return Label(((Leg(sorted_rows),), new[count:]), "activation")


@rule("linear", "mkldnn_linear")
def linear(
    t: Tracer, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, **_: Any
) -> Label:
    """``x @ weight.T + bias``, where it is not decomposed."""
    w = t.label(weight)
    product = contract(t, t.label(x), w.with_axes(w.axes[::-1]))
    if bias is None:
        return product
    return t.broadcast([t.label(bias), product], out.shape, "bias")


@rule("addr")
def addr(t: Tracer, out: Tensor, x: Tensor, a: Tensor, b: Tensor, **_: Any) -> Label:
    """``x`` plus an outer product."""
    left, right = t.label(a), t.label(b)
    column = left.with_axes((left.axes[0], ()))
    row = right.with_axes(((), right.axes[0]))
    outer = t.broadcast([column, row], out.shape, "scale")
    return t.broadcast([t.label(x), outer], out.shape, "bias")
