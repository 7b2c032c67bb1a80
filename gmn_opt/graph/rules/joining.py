"""Operators that cut axes into parts, select from them, and join them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gmn_opt.graph import index_sets as sets
from gmn_opt.graph import labels as lab
from gmn_opt.graph.index_sets import Node
from gmn_opt.graph.labels import Axis, Leg, SiteRef
from gmn_opt.graph.pieces import distribute
from gmn_opt.graph.rules.table import NoRuleError, rule
from gmn_opt.graph.uses import Label

if TYPE_CHECKING:
    from gmn_opt.graph.tracing import Tracer


def cut(t: Tracer, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """An axis cut into consecutive axes of ``sizes``."""
    if len(sizes) == 1:
        return [axis]
    legs = [leg for leg in lab.expand_axis(axis) if leg.node.size > 1]
    if len(legs) == 1 and legs[0].parts is not None:
        parts = legs[0].parts
        if [sets.size_of(lab.nodes_of(p)) for p in parts] == list(sizes):
            return list(parts)
    made = sets.segment(lab.nodes_of(tuple(legs)), sizes)
    if made is None:
        t.fix_axis(axis, f"{t.op} cuts it at places that do not fit")
        site = legs[0].site if legs else None
        return [(Leg(Node(s, f"{t.op} cuts it at places that do not fit"), site),) for s in sizes]
    if not legs:
        return [tuple(Leg(n) for n in part) for part in made]
    first, rest = legs[0], legs[1:]
    out: list[Axis] = []
    start = 0
    for part, size in zip(made, sizes, strict=True):
        head = part[: len(part) - len(sets.expand(lab.nodes_of(tuple(rest))))]
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
    axes = list(label.axes)
    if step != 1:
        t.fix_axis(axes[dim], f"{t.op} with a step")
        axes[dim] = (Leg(Node(taken, f"{t.op} with a step"), axes[dim][-1].site),)
        return label.with_axes(axes)
    start = min(max((start or 0) + (size if (start or 0) < 0 else 0), 0), size)
    if taken == 0:
        axes[dim] = (Leg(Node(0)),)
        return label.with_axes(axes)
    return run_of(t, label, dim, start, taken)


def run_of(t: Tracer, label: Label, dim: int, start: int, taken: int) -> Label:
    """``taken`` consecutive indices of an axis, from ``start`` on."""
    axes = list(label.axes)
    size = sets.size_of(lab.nodes_of(axes[dim]))
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
    legs = [leg for leg in lab.expand_axis(axes[dim]) if leg.node.size > 1]
    out = [piece if d == dim else axis for d, axis in enumerate(axes)]
    if not legs:
        return out
    for d, axis in enumerate(out):
        # ``cut`` moved the axis itself by as many places as it has before the run.
        like, by = (legs[0].shifted(start), step - 1) if d == dim else (legs[0], step)
        out[d] = shifted(axis, like, start * by)
        if d != dim and len(legs) == len(piece) == 1:  # otherwise families collapse when seen
            out[d] = _members(out[d], legs[0].node, range(start, start + taken), piece[0].node)
    return out


def stride(axes: Sequence[Axis], dim: int) -> int:
    """How many places along its site one index of an axis is, that the other axes account for."""
    legs = [leg for leg in lab.expand_axis(axes[dim]) if leg.node.size > 1]
    site = legs[0].site if legs else None
    if site is None:
        return 1
    rest = [g for d, axis in enumerate(axes) if d != dim for g in lab.expand_axis(axis)]
    mine = [g.node for g in rest if g.site == site]
    inner = _inside(lab.nodes_of(site.site.axis), legs[0].node) if mine else None
    if inner is None:  # rows of packed parts stand before the family that depends on them
        families = [n for n in mine if n.over is not None and sets.find(n.over) is legs[0].node]
        inner = families or None
    return sets.size_of(mine if inner is None else [node for node in mine if node in inner])


def _inside(nodes: Sequence[Node], wanted: Node) -> list[Node] | None:
    """What stands behind ``wanted`` in an axis, in any of its segments; None if it is not there."""
    order = sets.expand(nodes)
    for k, node in enumerate(order):
        if node is wanted:
            return order[k + 1 :]
        for part in node.segments or ():
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
    legs = [leg for leg in lab.expand_axis(label.axes[dim]) if leg.node.size > 1]
    if not legs:
        return label.with_axes(rest)
    reason = "single indices are selected"
    leg = legs[0]
    if len(legs) == 1:
        t.selected((leg,))
        t.read_alone((leg,))
        rest = [_members(axis, leg.node, range(index, index + 1), leg.node) for axis in rest]
    t.fix_axis(label.axes[dim], reason)
    if len(legs) == 1 and leg.site is not None:
        by = _start(leg.site, leg.node, index, size, [g.node for a in rest for g in a])
        rest = [shifted(axis, leg, by) for axis in rest]
    return label.with_axes(rest)


def _start(site: SiteRef, node: Node, index: int, size: int, left: Sequence[Node]) -> int:
    """Where in its site's axis the part begins that an index of ``node`` selects."""
    legs = lab.expand_axis(site.site.axis)
    for k, leg in enumerate(legs):
        if leg.node is node:
            return index * sets.size_of(g.node for g in legs[k + 1 :])
    found = [sets.find(n) for n in left]
    pieces = distribute(site.site.axis)
    hits = [sum(any(g.node is n for n in found) for g in piece.legs) for piece in pieces]
    if len(pieces) == size and max(hits):
        # Packed parts may share index sets by now; then the order of the pieces decides.
        best = [k for k, n in enumerate(hits) if n == max(hits)]
        return pieces[index if index in best else best[0]].start - site.offset
    return index * (sets.size_of(g.node for g in legs) // size)


def _members(axis: Axis, over: Node, taken: range, part: Node) -> Axis:
    """An axis with its families over an index set reduced to what some of the indices have.

    That is a single member where these indices have the same, else a family over ``part``.
    """
    out: list[Leg] = []
    for leg in lab.expand_axis(axis):
        node = leg.node
        if node.members is not None and node.over is not None and sets.find(node.over) is over:
            found = [sets.find(m) for m in node.members[taken.start : taken.stop]]
            if all(m is found[0] for m in found):
                leg = leg._replace(node=found[0])
            else:
                family = Node(node.size, node.fixed)
                family.members, family.over = tuple(found), part
                leg = leg._replace(node=family)
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
    inputs = [x for x in tensors if x.numel() or x.dim() > 1]
    labels = [t.label(x) for x in inputs]
    kinds = {x.kind for x in labels}
    dim %= out.dim()
    if "activation" in kinds:
        labels = [t.materialize(x) for x in labels]
    kind = "activation" if "activation" in kinds else labels[0].kind
    if "parameter" in kinds and kind != "activation":
        kind = "parameter"
    axes: list[Axis] = []
    for d in range(out.dim()):
        parts = [x.axes[d] for x in labels]
        if d == dim:
            axes.append(join(parts))
            continue
        axis = parts[0]
        for other in parts[1:]:
            axis = t.meet(axis, other, "cat")
        axes.append(axis)
    return Label(tuple(axes), kind)


def join(parts: Sequence[Axis]) -> Axis:
    """The concatenation of axes."""
    sizes = [sets.size_of(lab.nodes_of(p)) for p in parts]
    kept = [
        p if p else (Leg(Node(1, "an axis of size one")),)
        for p, s in zip(parts, sizes, strict=True)
        if s
    ]
    if len(kept) == 1:
        return kept[0]
    node = Node(sum(sizes))
    node.segments = tuple(lab.nodes_of(p) for p in kept)
    legs = [leg for p in kept for leg in p]
    sites = [leg.site for leg in legs if leg.site is not None]
    origins = tuple(o for leg in legs for o in leg.origins)
    site = max(sites, key=lambda r: r.site.id) if sites else None
    return (Leg(node, site, origins, tuple(kept)),)


@rule("stack", "_stack", "hstack", "vstack")
def stack(t: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """A new, fixed axis over tensors of the same axes, which meet when the result is read."""
    if t.op not in ("stack", "_stack"):
        raise NoRuleError(f"{t.op} was not decomposed")
    return lambda: _stack(t, out, tensors, dim)


def _stack(t: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int) -> Label:
    labels = [t.label(x) for x in tensors]
    kinds = {x.kind for x in labels}
    if "activation" in kinds:
        labels = [t.materialize(x) for x in labels]
    axes: list[Axis] = []
    for d in range(len(labels[0].axes)):
        axis = labels[0].axes[d]
        for other in labels[1:]:
            axis = t.meet(axis, other.axes[d], "cat")
        axes.append(axis)
    axes.insert(dim % out.dim(), (Leg(Node(len(tensors), "the order of a stack")),))
    kind = "activation" if "activation" in kinds else labels[0].kind
    if "parameter" in kinds and kind != "activation":
        kind = "parameter"
    return Label(tuple(axes), kind)
