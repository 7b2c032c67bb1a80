"""Reading and writing by index: an axis that data points into keeps its order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Axis, Label
from gmn_opt.graph.tracing.record import Pair
from gmn_opt.graph.tracing.rules.joining import run_of
from gmn_opt.graph.tracing.table import NoRuleError, rule
from gmn_opt.graph.tracing.tracer import Tracer


@rule("embedding")
def embedding(t: Tracer, out: Any, weight: Tensor, index: Tensor, *_: Any, **__: Any) -> Label:
    """Rows of a table, chosen by data: the rows are nodes of an input of their own."""
    table, where = t.label(weight), t.label(index)
    t.fix_axis(table.axes[0], "rows are looked up by index")
    if table.kind != "parameter":
        return Label((*where.axes, *table.axes[1:]), table.kind)
    return Label((*where.axes, _looked_up(t, table)), "activation")


def _looked_up(t: Tracer, table: Label) -> Axis:
    """The channels of looked-up rows of a parameter."""
    rows = _rows(t, table.axes[0])
    channel = t.new_site(table.axes[1], t.origin_name(table.axes))
    pairs = [Pair("src", table.axes[0], rows), Pair("dst", table.axes[1], channel)]
    t.use("embedding", pairs, fan_in=1, fan_out=lab.axis_size(channel))
    return channel


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    t: Tracer, out: Any, weight: Tensor, index: Tensor, offsets: Tensor, *rest: Any, **kwargs: Any
) -> list[Label]:
    """Sums, means or maxima of looked-up rows, channel by channel."""
    table, reason = t.label(weight), "rows are looked up by index"
    others = [x for x in (*rest, *kwargs.values()) if isinstance(x, Tensor)]  # weights of samples
    t.fix([table.axes[0], *(a for x in (index, offsets, *others) for a in t.label(x).axes)], reason)
    channel = _looked_up(t, table) if table.kind == "parameter" else table.axes[1]
    kind = "activation" if table.kind == "parameter" else table.kind
    bags = lab.new_axis(out[0].shape[0], "bags of rows")
    saved = [Label(lab.new_axes(x.shape, "kept for a backward pass")) for x in out[1:]]
    return [Label((bags, channel), kind), *saved]


@rule("embedding_renorm_")
def embedding_renorm(t: Tracer, out: Tensor, weight: Tensor, *_: Any) -> Label:
    """Rows that are looked up are scaled by their norm."""
    table = t.label(weight)
    t.fix_axis(table.axes[0], "rows are looked up by index")
    t.hidden([table.axes[0]])
    return table


def _rows(t: Tracer, axis: Axis) -> Axis:
    return t.new_site(axis, t.origin_name([axis]) + " rows", "index")


@rule("index_select")
def index_select(t: Tracer, out: Tensor, x: Tensor, dim: int, index: Tensor) -> Label:
    """Chosen indices of one axis."""
    label, where = t.label(x), t.label(index)
    dim %= max(len(label.axes), 1)
    t.fix_axis(label.axes[dim], "indexed by index_select")
    return label.with_axis(dim, where.axes[0] if where.axes else ())


@rule("index", "_unsafe_index")
def index(t: Tracer, out: Tensor, x: Tensor, indices: Sequence[Tensor | None]) -> Label:
    """Advanced indexing: indexed axes are fixed, the others stay."""
    label = t.label(x)
    given = list(indices) + [None] * (len(label.axes) - len(indices))
    if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in given):
        return _masked(t, out, label, given)
    used = [d for d, i in enumerate(given) if i is not None]
    if len(used) == 1 and (run := _run(t, given[used[0]], x.shape[used[0]])):
        return run_of(t, label, used[0], run.start, len(run))
    for d in used:
        t.fix_axis(label.axes[d], "indexed by data")
    wheres = [t.label(i) for i in given if i is not None]
    # PyTorch's own function imports sympy, half a second, when it is first called.
    shape = np.broadcast_shapes(*(tuple(i.shape) for i in given if i is not None))
    merged = t.broadcast(wheres, shape, "other") if wheres else Label(())
    kept = [a for d, a in enumerate(label.axes) if d not in used]
    adjacent = all(b - a == 1 for a, b in pairwise(used))
    at = used[0] if adjacent and used else 0
    made = [*kept[:at], *merged.axes, *kept[at:]]
    return label.with_axes(made)


def _run(t: Tracer, index: Tensor | None, size: int) -> range | None:
    """The run of indices that ``x[:, [2, 3]]`` takes, where it is one that data have no part in."""
    if index is None or index.dim() != 1 or not index.numel() or index.device.type == "meta":
        return None
    if t.leaked or t.label(index).kind != "constant":
        return None
    with torch._C.DisableTorchFunction():  # reading a constant is no leak
        numbers = [i % size for i in index.tolist()]
    run = range(numbers[0], numbers[0] + len(numbers))
    return run if numbers == list(run) else None


def _masked(t: Tracer, out: Tensor, label: Label, given: list[Any]) -> Label:
    if sum(i is not None for i in given) != 1:
        raise NoRuleError("indexing by masks and more")
    at = next(d for d, i in enumerate(given) if i is not None)
    mask = t.label(given[at])
    span = len(mask.axes)
    reason = "selected by a mask"
    for axis in [*label.axes[at : at + span], *mask.axes]:
        t.fix_axis(axis, reason)
    found = lab.new_axis(out.shape[at], reason)
    return label.with_axes([*label.axes[:at], found, *label.axes[at + span :]])


@rule("gather", "take_along_dim")
def gather(t: Tracer, out: Tensor, x: Tensor, dim: int, index: Tensor, **_: Any) -> Label:
    """One indexed axis; along the others ``index`` and the tensor run together."""
    label, where = t.activation(x), t.label(index)
    if not label.axes or not where.axes:
        return where
    dim %= len(label.axes)
    axes: list[Axis] = []
    for d, (a, b) in enumerate(zip(label.axes, where.axes, strict=True)):
        if d == dim:
            t.fix_axis(a, "indexed by gather")
            axes.append(b)
        elif x.shape[d] == index.shape[d]:
            t.unify(a, b)
            axes.append(a)
        else:
            t.fix([a, b], "gather reads a part of the axis")
            axes.append(b)
    return label.with_axes(axes)


@rule("scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_")
def scatter(
    t: Tracer, out: Tensor, x: Tensor, dim: int, index: Tensor, source: Any = None, *_: Any,
    **kwargs: Any,
) -> Label:  # fmt: skip
    """The opposite of gather."""
    label, where = t.activation(x), t.label(index)
    source = kwargs.get("src", source)
    values = t.label(source) if isinstance(source, Tensor) and source.dim() else None
    dim %= max(len(label.axes), 1)
    for d, axis in enumerate(label.axes):
        others = [(where.axes[d], index.shape[d])]
        if values is not None and isinstance(source, Tensor):
            others.append((values.axes[d], source.shape[d]))
        for other, size in others:
            if d == dim:
                t.fix([axis, other], "indexed by scatter")
            elif size == x.shape[d] == index.shape[d]:
                t.unify(axis, other)
            else:
                t.fix([axis, other], "scatter writes a part of the axis")
    kind = "activation" if values is not None and values.kind != "constant" else label.kind
    return Label(label.axes, kind)


@rule("index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
def index_put(
    t: Tracer, out: Tensor, x: Tensor, indices: Sequence[Tensor | None], values: Tensor, *_: Any,
    **__: Any,
) -> Label:  # fmt: skip
    """Writing by index: indexed axes are fixed, the others run together."""
    label = t.activation(x)
    given = list(indices) + [None] * (len(label.axes) - len(indices))
    written = t.activation(values)
    if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in given):
        return _put_by_mask(t, label, written, given)
    used = [d for d, i in enumerate(given) if i is not None]
    for d in used:
        t.fix_axis(label.axes[d], "written by index")
    for where in given:
        if where is not None:
            t.fix(t.label(where).axes, "written by index")
    axes = list(label.axes)
    kept = [d for d in range(len(axes)) if d not in used]
    tail = list(zip(reversed(kept), reversed(written.axes), strict=False))
    gapless = used == list(range(len(used)))
    for d, other in tail:
        same = lab.axis_size(axes[d]) == lab.axis_size(other)
        if gapless and same:
            axes[d] = t.meet(axes[d], other)
        else:
            t.fix([axes[d], other], "written by index")
    t.fix(written.axes[: max(len(written.axes) - len(kept), 0)], "written by index")
    return Label(tuple(axes), "activation")


def _put_by_mask(t: Tracer, label: Label, written: Label, given: list[Any]) -> Label:
    """``x[mask] = values``: axes behind a leading mask run together, all others are fixed."""
    reason = "written by a mask"
    for where in given:
        if where is not None:
            t.fix(t.label(where).axes, reason)
    span = given[0].dim() if given[0] is not None else 0
    axes = list(label.axes)
    if not span or any(i is not None for i in given[1:]):
        t.fix([*axes, *written.axes], reason)
        return Label(label.axes, "activation")
    t.fix([*axes[:span], *written.axes[: max(len(written.axes) - len(axes) + span, 0)]], reason)
    behind = range(len(axes) - 1, span - 1, -1)
    for d, other in zip(behind, reversed(written.axes), strict=False):
        size = lab.axis_size(other)
        if size == lab.axis_size(axes[d]):
            axes[d] = t.meet(axes[d], other)
        elif size != 1:
            t.fix([axes[d], other], reason)
    return Label(tuple(axes), "activation")


@rule("index_add", "index_add_", "index_copy", "index_copy_", "index_fill", "index_fill_")
def index_add(
    t: Tracer, out: Tensor, x: Tensor, dim: int, index: Tensor, source: Any, *_: Any, **__: Any
) -> Label:
    """Slices added or written at chosen indices of one axis."""
    label = t.activation(x)
    t.fix([label.axes[dim]], "written by index")
    t.fix(t.label(index).axes, "written by index")
    axes = list(label.axes)
    if isinstance(source, Tensor) and source.dim():
        values = t.activation(source)
        for d, (a, b) in enumerate(zip(label.axes, values.axes, strict=True)):
            if d == dim % len(label.axes):
                t.fix_axis(b, "written by index")
            else:
                axes[d] = t.meet(a, b)
    return Label(tuple(axes), "activation")


@rule("one_hot")
def one_hot(t: Tracer, out: Tensor, x: Tensor, *_: Any) -> Label:
    """A new axis that an index points into."""
    return Label((*t.label(x).axes, lab.new_axis(out.shape[-1], "one-hot classes")), "activation")
