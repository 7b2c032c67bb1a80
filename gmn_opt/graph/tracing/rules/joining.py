"""Operators that cut axes into parts, select from them, and join them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.index_sets import IndexSet
from gmn_opt.graph.tracing.labels import Axis, Label, Leg, SiteRef
from gmn_opt.graph.tracing.pieces import distribute
from gmn_opt.graph.tracing.table import NoRuleError, rule
from gmn_opt.graph.tracing.tracer import Tracer


def cut(t: Tracer, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """An axis cut into consecutive axes of ``sizes``."""
    if len(sizes) == 1:
        return [axis]
    legs = [leg for leg in lab.expand_axis(axis) if leg.set.size > 1]
    if len(legs) == 1 and legs[0].parts is not None:
        parts = legs[0].parts
        if [lab.axis_size(p) for p in parts] == list(sizes):
            return list(parts)
    made = sets.segment(lab.sets_of(tuple(legs)), sizes)
    if made is None:
        t.fix_axis(axis, f"{t.op} cuts it at places that do not fit")
        site = legs[0].site if legs else None
        return list(lab.new_axes(sizes, f"{t.op} cuts it at places that do not fit", site))
    if not legs:
        return [tuple(Leg(n) for n in part) for part in made]
    first, rest = legs[0], legs[1:]
    out: list[Axis] = []
    start = 0
    for part, size in zip(made, sizes, strict=True):
        head = part[: len(part) - len(sets.expand(lab.sets_of(tuple(rest))))]
        whole = (*(Leg(n, first.site, first.origins) for n in head), *rest)
        out.append(shifted(whole, first, start))
        start += size
    return out


def shifted(axis: Axis, like: Leg, by: int) -> Axis:
    """The same axis; legs of the same place as ``like`` stand for the part ``by`` further on."""
    if by == 0:
        return axis
    same = (like.site, like.origins)
    return tuple(g.shifted(by) if (g.site, g.origins) == same else g for g in axis)


@rule("slice", "slice_copy", "narrow")
def slice_(
    t: Tracer,
    out: Tensor,
    x: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Label:
    """A run of indices: the axis falls into what is before, inside and after."""
    label = t.label(x)
    dim %= len(label.axes)
    size, taken = x.shape[dim], out.shape[dim]
    if taken == size and step == 1:
        return label
    if step != 1:
        axis, reason = label.axes[dim], f"{t.op} with a step"
        t.fix_axis(axis, reason)
        return label.with_axis(dim, lab.new_axis(taken, reason, axis[-1].site))
    start = min(max((start or 0) + (size if (start or 0) < 0 else 0), 0), size)
    if taken == 0:
        return label.with_axis(dim, lab.new_axis(0))
    return run_of(t, label, dim, start, taken)


def run_of(t: Tracer, label: Label, dim: int, start: int, taken: int) -> Label:
    """``taken`` consecutive indices of an axis, from ``start`` on."""
    axes = list(label.axes)
    size = lab.axis_size(axes[dim])
    sizes = [start, taken, size - start - taken]
    step = stride(axes, dim)
    if taken == 1:
        t.read_alone(axes[dim])
    pieces = cut(t, axes[dim], [s for s in sizes if s])
    return label.with_axes(taken_from(axes, dim, pieces[1 if start else 0], start, taken, step))


def taken_from(
    axes: Sequence[Axis], dim: int, piece: Axis, start: int, taken: int, step: int
) -> list[Axis]:
    """The axes with ``piece`` for axis ``dim``, and the members that belong to it of families."""
    legs = [leg for leg in lab.expand_axis(axes[dim]) if leg.set.size > 1]
    out = [piece if d == dim else axis for d, axis in enumerate(axes)]
    if not legs:
        return out
    for d, axis in enumerate(out):
        # ``cut`` moved the axis itself by as many places as it has before the run.
        like, by = (legs[0].shifted(start), step - 1) if d == dim else (legs[0], step)
        out[d] = shifted(axis, like, start * by)
        if d != dim and len(legs) == len(piece) == 1:  # otherwise families collapse when seen
            out[d] = _members(out[d], legs[0].set, range(start, start + taken), piece[0].set)
    return out


def stride(axes: Sequence[Axis], dim: int) -> int:
    """How many places along its site one index of an axis is, that the other axes account for."""
    legs = [leg for leg in lab.expand_axis(axes[dim]) if leg.set.size > 1]
    site = legs[0].site if legs else None
    if site is None:
        return 1
    rest = [g for d, axis in enumerate(axes) if d != dim for g in lab.expand_axis(axis)]
    mine = [g.set for g in rest if g.site == site]
    inner = _inside(lab.sets_of(site.site.axis), legs[0].set) if mine else None
    if inner is None:  # rows of packed parts stand before the family that depends on them
        families = [s for s in mine if s.over is not None and sets.find(s.over) is legs[0].set]
        inner = families or None
    return sets.size_of(mine if inner is None else [one for one in mine if one in inner])


def _inside(axis: Sequence[IndexSet], wanted: IndexSet) -> list[IndexSet] | None:
    """What stands behind ``wanted`` in an axis, in any of its segments; None if it is not there."""
    order = sets.expand(axis)
    for k, one in enumerate(order):
        if one is wanted:
            return order[k + 1 :]
        for part in one.segments or ():
            found = _inside(part, wanted)
            if found is not None:
                return found + order[k + 1 :]
    return None


@rule("select", "select_copy")
def select(t: Tracer, out: Tensor, x: Tensor, dim: int, index: int) -> Any:
    """One index of an axis, which is fixed once somebody reads the result."""
    label, size = t.label(x), x.shape[dim]
    return lambda: _select(t, label, dim % len(label.axes), int(index) % size, size)


def _select(t: Tracer, label: Label, dim: int, index: int, size: int) -> Label:
    rest = [a for d, a in enumerate(label.axes) if d != dim]
    legs = [leg for leg in lab.expand_axis(label.axes[dim]) if leg.set.size > 1]
    if not legs:
        return label.with_axes(rest)
    reason = "single indices are selected"
    leg = legs[0]
    if len(legs) == 1:
        t.selected((leg,))
        t.read_alone((leg,))
        rest = [_members(axis, leg.set, range(index, index + 1), leg.set) for axis in rest]
    t.fix_axis(label.axes[dim], reason)
    if len(legs) == 1 and leg.site is not None:
        by = _start(leg.site, leg.set, index, size, [g.set for a in rest for g in a])
        rest = [shifted(axis, leg, by) for axis in rest]
    return label.with_axes(rest)


def _start(site: SiteRef, one: IndexSet, index: int, size: int, left: Sequence[IndexSet]) -> int:
    """Where in its site's axis the part begins that an index of ``one`` selects."""
    legs = lab.expand_axis(site.site.axis)
    for k, leg in enumerate(legs):
        if leg.set is one:
            return index * sets.size_of(g.set for g in legs[k + 1 :])
    found = [sets.find(n) for n in left]
    pieces = distribute(site.site.axis)
    hits = [sum(any(g.set is n for n in found) for g in piece.legs) for piece in pieces]
    if len(pieces) == size and max(hits):
        # Packed parts may share index sets by now; then the order of the pieces decides.
        best = [k for k, n in enumerate(hits) if n == max(hits)]
        return pieces[index if index in best else best[0]].start - site.offset
    return index * (sets.size_of(g.set for g in legs) // size)


def _members(axis: Axis, over: IndexSet, taken: range, part: IndexSet) -> Axis:
    """An axis with its families over an index set reduced to what some of the indices have.

    That is a single member where these indices have the same, else a family over ``part``.
    """
    out: list[Leg] = []
    for leg in lab.expand_axis(axis):
        one = leg.set
        if one.members is not None and one.over is not None and sets.find(one.over) is over:
            found = [sets.find(m) for m in one.members[taken.start : taken.stop]]
            if all(m is found[0] for m in found):
                leg = leg._replace(set=found[0])
            else:
                family = IndexSet(one.size, one.fixed)
                family.members, family.over = tuple(found), part
                leg = leg._replace(set=family)
        out.append(leg)
    return tuple(out)


@rule("unbind", "unbind_copy")
def unbind(t: Tracer, out: Sequence[Tensor], x: Tensor, dim: int = 0) -> list[Label]:
    """Every index of an axis."""
    label = t.label(x)
    dim %= len(label.axes)
    return [_select(t, label, dim, i, x.shape[dim]) for i in range(x.shape[dim])]


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "split_copy",
      "split_with_sizes_copy", "chunk", "unsafe_chunk", "tensor_split")  # fmt: skip
def split(t: Tracer, out: Sequence[Tensor], x: Tensor, sizes: Any, dim: int = 0) -> list[Label]:
    """Consecutive runs of an axis."""
    label = t.label(x)
    dim %= len(label.axes)
    runs = [piece.shape[dim] for piece in out]
    if 0 in runs:
        raise NoRuleError(f"{t.op} into empty parts")
    step = stride(label.axes, dim)
    made = cut(t, label.axes[dim], runs)
    return [
        label.with_axes(taken_from(label.axes, dim, piece, sum(runs[:k]), runs[k], step))
        for k, piece in enumerate(made)
    ]


@rule("cat", "concat", "concatenate")
def cat(t: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Axes one after the other; the other axes meet, once somebody reads the result."""
    return lambda: _cat(t, out, tensors, dim)


def _cat(t: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int) -> Label:
    labels = _alike(t, [x for x in tensors if x.numel() or x.dim() > 1])
    dim %= out.dim()
    axes = [
        join([x.axes[d] for x in labels]) if d == dim else _meet_all(t, labels, d)
        for d in range(out.dim())
    ]
    return Label(tuple(axes), lab.joint_kind(labels))


def _alike(t: Tracer, tensors: Sequence[Tensor]) -> list[Label]:
    """Labels of tensors to be joined: of activations all, if any is."""
    labels = [t.label(x) for x in tensors]
    return [t.materialize(x) for x in labels] if lab.joint_kind(labels) == "activation" else labels


def _meet_all(t: Tracer, labels: Sequence[Label], dim: int) -> Axis:
    """One axis of tensors that are joined along another."""
    axis = labels[0].axes[dim]
    for other in labels[1:]:
        axis = t.meet(axis, other.axes[dim], "cat")
    return axis


def join(parts: Sequence[Axis]) -> Axis:
    """The concatenation of axes."""
    kept = [p or lab.new_axis(1, "an axis of size one") for p in parts if lab.axis_size(p)]
    if len(kept) == 1:
        return kept[0]
    whole = IndexSet(sum(map(lab.axis_size, kept)))
    whole.segments = tuple(lab.sets_of(p) for p in kept)
    origins = tuple(o for p in kept for leg in p for o in leg.origins)
    return (Leg(whole, lab.newest(kept), origins, tuple(kept)),)


@rule("stack", "_stack", "hstack", "vstack")
def stack(t: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """A new, fixed axis over tensors of the same axes, which meet when the result is read."""
    if t.op not in ("stack", "_stack"):
        raise NoRuleError(f"{t.op} was not decomposed")
    return lambda: _stack(t, out, tensors, dim)


def _stack(t: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int) -> Label:
    labels = _alike(t, tensors)
    axes = [_meet_all(t, labels, d) for d in range(len(labels[0].axes))]
    axes.insert(dim % out.dim(), lab.new_axis(len(tensors), "the order of a stack"))
    return Label(tuple(axes), lab.joint_kind(labels))
