"""Operators that move, merge, split and repeat axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.index_sets import IndexSet
from gmn_opt.graph.tracing.labels import Axis, Label, Leg
from gmn_opt.graph.tracing.table import NoRuleError, rule
from gmn_opt.graph.tracing.tracer import Tracer


def reshape(t: Tracer, label: Label, shape: Sequence[int]) -> Label:
    """Split and merge axes; where the sizes interleave, the axes involved are fixed."""
    old = [lab.axis_size(axis) for axis in label.axes]
    if 0 in old or 0 in shape:
        return Label(lab.new_axes(shape, "empty tensors"), label.kind)
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
    legs = [leg for axis in axes for leg in lab.expand_axis(axis) if leg.set.size > 1]
    out: list[Axis] = []
    for size in sizes:
        taken: list[Leg] = []
        rest = size
        while rest > 1:
            leg = legs.pop(0)
            n = leg.set.size
            if rest % n == 0:
                taken.append(leg)
                rest //= n
                continue
            cut = t.split_off(leg.set, rest) if n % rest == 0 else None
            if cut is None:
                for axis in axes:
                    t.fix_axis(axis, f"{t.op} regroups axes that do not fit")
                reason = f"{t.op} regroups axes that do not fit"
                return [lab.new_axis(s, reason, leg.site) if s > 1 else () for s in sizes]
            legs[:0] = lab.expand_axis(tuple(leg._replace(set=s, parts=None) for s in cut))
            taken.append(legs.pop(0))
            rest //= taken[-1].set.size
            while rest > 1 and legs and rest % legs[0].set.size == 0:
                taken.append(legs.pop(0))
                rest //= taken[-1].set.size
        out.append(tuple(taken))
    return out


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy", "flatten")
def view(t: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> Label:
    """Another shape over the same elements."""
    if out.dtype.itemsize != x.dtype.itemsize:
        raise NoRuleError("a view as another type")
    return reshape(t, t.label(x), out.shape)


@rule("as_strided", "as_strided_")
def as_strided(
    t: Tracer, out: Tensor, x: Tensor, size: Sequence[int], stride: Sequence[int], *_: Any
) -> Label:
    """Followed where nothing but the strides of axes of size one changes."""
    label = t.label(x)
    old, start = t.before if t.op == "as_strided_" else (x.stride(), x.storage_offset())
    sizes = [lab.axis_size(axis) for axis in label.axes]
    moved = any(a != b for n, a, b in zip(size, old, stride, strict=True) if n > 1)
    if moved or sizes != list(size) or out.storage_offset() != start:
        raise NoRuleError("strides set by hand")
    return label


@rule("view_as_real", "view_as_complex")
def complex_view(t: Tracer, out: Tensor, x: Tensor) -> Label:
    """A last axis of two appears or goes."""
    label = t.label(x)
    if out.dim() > x.dim():
        return label.with_axes((*label.axes, lab.new_axis(2, "real and imaginary part")))
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
    tried = range(len(label.axes)) if dims is None else lab.chosen(dims, len(label.axes))
    gone = {d for d in tried if lab.axis_size(label.axes[d]) == 1}
    return label.with_axes([a for d, a in enumerate(label.axes) if d not in gone])


@rule("expand", "expand_copy", "expand_as")
def expand(t: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> Label:
    """Repeats along an axis are all alike, so their order does not matter."""
    label = t.label(x)
    new = len(out.shape) - len(label.axes)
    axes: list[Axis] = []
    for k, size in enumerate(out.shape):
        axis = label.axes[k - new] if k >= new else ()
        if lab.axis_size(axis) == size and k >= new:
            axes.append(axis)
        else:
            axes.append(lab.new_axis(size))
    return label.with_axes(axes)


@rule("repeat", "tile")
def repeat(t: Tracer, out: Tensor, x: Tensor, repeats: Sequence[int]) -> Label:
    """Copies of an axis: (copies, axis)."""
    label = t.label(x)
    new = len(repeats) - len(label.axes)
    axes: list[Axis] = []
    for k, times in enumerate(repeats):
        axis = label.axes[k - new] if k >= new else ()
        axes.append(axis if times == 1 else (Leg(IndexSet(times)), *axis))
    return label.with_axes(axes)
