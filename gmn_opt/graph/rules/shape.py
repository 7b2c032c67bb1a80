"""Operators that move, merge, split, cut and join axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gmn_opt.graph import labels as lab
from gmn_opt.graph.labels import Axis, Leg, Node, SiteRef
from gmn_opt.graph.rules.table import NoRuleError, rule
from gmn_opt.graph.uses import Label

if TYPE_CHECKING:
    from gmn_opt.graph.tracing import Tracer


def reshape(t: Tracer, label: Label, shape: Sequence[int]) -> Label:
    """Split and merge axes; where the sizes interleave, the axes involved are fixed."""
    old = [lab.size_of(lab.nodes_of(axis)) for axis in label.axes]
    if 0 in old or 0 in shape:
        return Label(tuple((Leg(Node(n, "empty tensors")),) for n in shape), label.kind)
    out: list[Axis] = []
    i = 0
    shape = list(shape)
    j = 0
    while j < len(shape):
        if shape[j] == 1:
            if i < len(old) and old[i] == 1:
                out.append(label.axes[i])
                i += 1
            else:
                out.append(())
            j += 1
            continue
        while i < len(old) and old[i] == 1:
            i += 1
        i2, j2, a, b = i + 1, j + 1, old[i], shape[j]
        while a != b:
            if a < b:
                a *= old[i2]
                i2 += 1
            else:
                b *= shape[j2]
                j2 += 1
        out.extend(_regroup(t, label.axes[i:i2], shape[j:j2]))
        i, j = i2, j2
    return label.with_axes(out)


def _regroup(t: Tracer, axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """Deal the legs of ``axes`` out to new axes of ``sizes`` (same number of elements)."""
    if len(axes) == 1 and len(sizes) == 1:
        return [axes[0]]
    legs = [leg for axis in axes for leg in lab.expand_axis(axis) if leg.node.size > 1]
    out: list[Axis] = []
    for size in sizes:
        taken: list[Leg] = []
        rest = size
        while rest > 1:
            leg = legs.pop(0)
            n = leg.node.size
            if rest % n == 0:
                taken.append(leg)
                rest //= n
                continue
            cut = t.split_off(leg.node, rest) if n % rest == 0 else None
            if cut is None:
                for axis in axes:
                    t.fix_axis(axis, f"{t.op} regroups axes that do not fit")
                return [
                    (Leg(Node(s, f"{t.op} regroups axes that do not fit"), leg.site),)
                    if s > 1 else () for s in sizes
                ]  # fmt: skip
            legs[:0] = [
                g for node in cut for g in lab.expand_axis((leg._replace(node=node, parts=None),))
            ]
            taken.append(legs.pop(0))
            rest //= taken[-1].node.size
            while rest > 1 and legs and rest % legs[0].node.size == 0:
                taken.append(legs.pop(0))
                rest //= taken[-1].node.size
        out.append(tuple(taken))
    return out


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy", "flatten")
def view(t: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> Label:
    """Another shape over the same elements."""
    if out.dtype.itemsize != x.dtype.itemsize:
        raise NoRuleError("a view as another type")
    return reshape(t, t.label(x), out.shape)


@rule("view_as_real", "view_as_complex")
def complex_view(t: Tracer, out: Tensor, x: Tensor) -> Label:
    """A last axis of two appears or goes."""
    label = t.label(x)
    if out.dim() > x.dim():
        return label.with_axes((*label.axes, (Leg(Node(2, "real and imaginary part")),)))
    t.fix_axis(label.axes[-1], "real and imaginary part")
    return label.with_axes(label.axes[:-1])


@rule("clone", "detach", "alias", "contiguous", "_to_copy", "to", "lift_fresh", "lift",
      "lift_fresh_copy", "positive", "_conj", "conj", "resolve_conj", "resolve_neg",
      "detach_copy", "alias_copy", "_neg_view", "dropout", "feature_dropout", "alpha_dropout",
      "native_dropout", "requires_grad", "_autocast_to_reduced_precision", "bernoulli",
      "_autocast_to_full_precision", "set_data", "nan_to_num", "type_as")  # fmt: skip
def same(t: Tracer, out: Any, x: Tensor, *_: Any, **__: Any) -> list[Label]:
    """The same axes; dropout's mask is drawn anew for every element, so no index is special."""
    label = t.label(x)
    return [label, label]


@rule("bernoulli_", "fill_", "zero_", "fill")
def overwrite(t: Tracer, out: Tensor, x: Tensor, *rest: Any, **_: Any) -> Label:
    """Every element is replaced by the same number, or drawn from the same distribution."""
    return t.label(x)


@rule("t", "numpy_T", "mT", "adjoint")
def t_(t: Tracer, out: Tensor, x: Tensor) -> Label:
    """The last two axes change places."""
    label = t.label(x)
    if len(label.axes) < 2:
        return label
    return label.with_axes((*label.axes[:-2], label.axes[-1], label.axes[-2]))


@rule("transpose", "transpose_copy", "swapaxes", "transpose_")
def transpose(t: Tracer, out: Tensor, x: Tensor, a: int, b: int) -> Label:
    """Two axes change places."""
    axes = list(t.label(x).axes)
    axes[a], axes[b] = axes[b], axes[a]
    return t.label(x).with_axes(axes)


@rule("permute", "permute_copy")
def permute(t: Tracer, out: Tensor, x: Tensor, dims: Sequence[int]) -> Label:
    """Axes in another order."""
    label = t.label(x)
    return label.with_axes([label.axes[d] for d in dims])


@rule("unsqueeze", "unsqueeze_copy", "unsqueeze_")
def unsqueeze(t: Tracer, out: Tensor, x: Tensor, dim: int) -> Label:
    """A new axis of size one."""
    axes = list(t.label(x).axes)
    axes.insert(dim % out.dim(), ())
    return t.label(x).with_axes(axes)


@rule("squeeze", "squeeze_copy", "squeeze_")
def squeeze(t: Tracer, out: Tensor, x: Tensor, dims: Any = None) -> Label:
    """Axes of size one go."""
    label = t.label(x)
    if dims is None:
        chosen = set(range(len(label.axes)))
    else:
        chosen = {d % len(label.axes) for d in ([dims] if isinstance(dims, int) else dims)}
    gone = {d for d in chosen if lab.size_of(lab.nodes_of(label.axes[d])) == 1}
    return label.with_axes([a for d, a in enumerate(label.axes) if d not in gone])


@rule("expand", "expand_copy", "expand_as")
def expand(t: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> Label:
    """Repeats along an axis are all alike, so their order does not matter."""
    label = t.label(x)
    new = len(out.shape) - len(label.axes)
    axes: list[Axis] = []
    for k, size in enumerate(out.shape):
        axis = label.axes[k - new] if k >= new else ()
        if lab.size_of(lab.nodes_of(axis)) == size and k >= new:
            axes.append(axis)
        else:
            axes.append((Leg(Node(size)),))
    return label.with_axes(axes)


@rule("repeat", "tile")
def repeat(t: Tracer, out: Tensor, x: Tensor, repeats: Sequence[int]) -> Label:
    """Copies of an axis: (copies, axis)."""
    label = t.label(x)
    new = len(repeats) - len(label.axes)
    axes: list[Axis] = []
    for k, times in enumerate(repeats):
        axis = label.axes[k - new] if k >= new else ()
        axes.append(axis if times == 1 else (Leg(Node(times)), *axis))
    return label.with_axes(axes)


def cut(t: Tracer, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """An axis cut into consecutive axes of ``sizes``."""
    if len(sizes) == 1:
        return [axis]
    legs = [leg for leg in lab.expand_axis(axis) if leg.node.size > 1]
    if len(legs) == 1 and legs[0].parts is not None:
        parts = legs[0].parts
        if [lab.size_of(lab.nodes_of(p)) for p in parts] == list(sizes):
            return list(parts)
    made = lab.segment(lab.nodes_of(tuple(legs)), sizes)
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
        head = part[: len(part) - len(lab.expand(lab.nodes_of(tuple(rest))))]
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
    sizes = [start, taken, size - start - taken]
    pieces = cut(t, axes[dim], [s for s in sizes if s])
    axes[dim] = pieces[1 if start else 0]
    return label.with_axes(axes)


@rule("select", "select_copy")
def select(t: Tracer, out: Tensor, x: Tensor, dim: int, index: int) -> Label:
    """One index of an axis."""
    label = t.label(x)
    dim %= len(label.axes)
    return _select(t, label, dim, int(index) % x.shape[dim], x.shape[dim])


def _select(t: Tracer, label: Label, dim: int, index: int, size: int) -> Label:
    rest = [a for d, a in enumerate(label.axes) if d != dim]
    legs = [leg for leg in lab.expand_axis(label.axes[dim]) if leg.node.size > 1]
    if not legs:
        return label.with_axes(rest)
    reason = "single indices are selected"
    leg = legs[0]
    if len(legs) == 1:
        t.selected((leg,))
        rest = [_member(axis, leg.node, index) for axis in rest]
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
            return index * lab.size_of(g.node for g in legs[k + 1 :])
    found = [lab.find(n) for n in left]
    for piece in lab.distribute(site.site.axis):
        if any(g.node is n for g in piece.legs for n in found if n.fixed is None):
            if len(piece.where) * size == lab.size_of(g.node for g in legs):
                return piece.start - site.offset
    return index * (lab.size_of(g.node for g in legs) // size)


def _member(axis: Axis, over: Node, index: int) -> Axis:
    """An axis with the families over a selected index replaced by their chosen members."""
    out: list[Leg] = []
    for leg in lab.expand_axis(axis):
        mine = leg.node.over is not None and lab.find(leg.node.over) is over
        if leg.node.members is not None and mine:
            leg = leg._replace(node=leg.node.members[index])
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
    made = cut(t, label.axes[dim], runs)
    return [label.with_axes([*label.axes[:dim], m, *label.axes[dim + 1 :]]) for m in made]


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
    sizes = [lab.size_of(lab.nodes_of(p)) for p in parts]
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


@rule("constant_pad_nd", "pad")
def pad(t: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> Label:
    """Axes that are padded are fixed."""
    label = t.label(x)
    axes: list[Axis] = []
    for d, axis in enumerate(label.axes):
        if out.shape[d] == x.shape[d]:
            axes.append(axis)
            continue
        t.fix_axis(axis, "padding")
        axes.append((Leg(Node(out.shape[d], "padding")),))
    return label.with_axes(axes)


@rule("tril", "triu")
def triangle(t: Tracer, out: Tensor, x: Tensor, *_: Any) -> Label:
    """Which elements stay depends on the order of the last two axes."""
    label = t.label(x)
    t.fix(label.axes[-2:], f"{t.op} depends on the order")
    return label


@rule("flip", "roll", "rot90")
def reorder(t: Tracer, out: Tensor, x: Tensor, *rest: Any, **__: Any) -> Label:
    """Axes that are turned around or shifted are fixed."""
    label = t.label(x)
    dims = rest[-1] if rest else range(len(label.axes))
    if t.op == "roll" and len(rest) < 2:
        dims = range(len(label.axes))
    if t.op == "rot90":
        dims = rest[1] if len(rest) > 1 else (0, 1)
    chosen = {d % len(label.axes) for d in ([dims] if isinstance(dims, int) else dims)}
    for d in chosen or set(range(len(label.axes))):
        t.fix_axis(label.axes[d], f"{t.op} depends on the order")
    t.hidden([a for d, a in enumerate(label.axes) if d not in chosen])
    return label


@rule("diagonal", "diag_embed", "diag")
def diagonal(t: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> Label:
    """Not followed: raise, so that the axes are fixed."""
    raise NoRuleError(f"{t.op} is not followed")


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(t: Tracer, out: Tensor, x: Tensor, groups: int) -> Label:
    """``(g c)`` becomes ``(c g)``."""
    label = t.label(x)
    one = Label((label.axes[1],), label.kind)
    outer, inner = reshape(t, one, (groups, x.shape[1] // groups)).axes
    return label.with_axes((label.axes[0], (*inner, *outer), *label.axes[2:]))


@rule("pixel_shuffle")
def pixel_shuffle(t: Tracer, out: Tensor, x: Tensor, r: int) -> Label:
    """``(c r r) h w`` becomes ``c (h r) (w r)``."""
    label = t.label(x)
    reason = "positions of a pixel shuffle"
    split_up = reshape(t, Label((label.axes[-3],), label.kind), (out.shape[-3], r * r))
    t.fix((split_up.axes[1], *label.axes[-2:]), reason)
    fixed = tuple((Leg(Node(n, reason)),) for n in out.shape[-2:])
    return label.with_axes((*label.axes[:-3], split_up.axes[0], *fixed))


@rule("pixel_unshuffle")
def pixel_unshuffle(t: Tracer, out: Tensor, x: Tensor, r: int) -> Label:
    """``c (h r) (w r)`` becomes ``(c r r) h w``."""
    label = t.label(x)
    reason = "positions of a pixel shuffle"
    t.fix(label.axes[-2:], reason)
    fixed = tuple((Leg(Node(n, reason)),) for n in out.shape[-2:])
    channel = (*label.axes[-3], Leg(Node(r * r, reason)))
    return label.with_axes((*label.axes[:-3], channel, *fixed))
