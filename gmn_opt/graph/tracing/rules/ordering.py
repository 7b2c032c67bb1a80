"""Operators for which the order along an axis matters: padding, flips, shuffles."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Axis, Label
from gmn_opt.graph.tracing.rules.shape import reshape
from gmn_opt.graph.tracing.table import NoRuleError, rule
from gmn_opt.graph.tracing.tracer import Tracer


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
        axes.append(lab.new_axis(out.shape[d], "padding"))
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
    chosen = lab.chosen(dims, len(label.axes))
    for d in chosen or set(range(len(label.axes))):
        t.fix_axis(label.axes[d], f"{t.op} depends on the order")
    t.hidden([a for d, a in enumerate(label.axes) if d not in chosen])
    return label


@rule("unfold", "unfold_copy")
def unfold(t: Tracer, out: Tensor, x: Tensor, dim: int, size: int, step: int) -> Label:
    """Windows along an axis: ``[..., n, ...]`` becomes ``[..., windows, ..., size]``."""
    label, reason = t.label(x), "windows along the axis"
    dim %= max(len(label.axes), 1)
    t.fix(label.axes[dim : dim + 1], reason)
    t.hidden([a for d, a in enumerate(label.axes) if d != dim])
    windows, inner = lab.new_axis(out.shape[dim], reason), lab.new_axis(size, reason)
    return label.with_axes((*label.axes[:dim], windows, *label.axes[dim + 1 :], inner))


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
    fixed = lab.new_axes(out.shape[-2:], reason)
    return label.with_axes((*label.axes[:-3], split_up.axes[0], *fixed))


@rule("pixel_unshuffle")
def pixel_unshuffle(t: Tracer, out: Tensor, x: Tensor, r: int) -> Label:
    """``c (h r) (w r)`` becomes ``(c r r) h w``."""
    label = t.label(x)
    reason = "positions of a pixel shuffle"
    t.fix(label.axes[-2:], reason)
    fixed = lab.new_axes(out.shape[-2:], reason)
    channel = (*label.axes[-3], *lab.new_axis(r * r, reason))
    return label.with_axes((*label.axes[:-3], channel, *fixed))
