"""Operators that fit no family: attention kernels, constants made of numbers, Fourier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Axis, Label
from gmn_opt.graph.tracing.record import Pair
from gmn_opt.graph.tracing.table import rule
from gmn_opt.graph.tracing.tracer import Tracer


@rule("arange", "linspace", "logspace", "tril_indices", "triu_indices", "hann_window",
      "fft_fftfreq", "fft_rfftfreq")  # fmt: skip
def numbers(t: Tracer, out: Tensor, *_: Any, **__: Any) -> Label:
    """Constants whose elements differ."""
    return Label(lab.new_axes(out.shape, f"made by {t.op}"), "constant")


@rule("eye")
def eye(t: Tracer, out: Tensor, *_: Any, **__: Any) -> Label:
    """The identity stays as it is if rows and columns move together."""
    if out.shape[0] != out.shape[1]:
        return numbers(t, out)
    axis = lab.new_axis(out.shape[0])
    return Label((axis, axis), "constant")


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(t: Tracer, out: Tensor, x: Tensor, dims: Any, *_: Any, **__: Any) -> Label:
    """Transformed axes are fixed; the others pass."""
    label = t.label(x)
    chosen = lab.chosen(dims, len(label.axes))
    axes = list(label.axes)
    for d in chosen:
        t.fix_axis(axes[d], "Fourier modes")
        axes[d] = lab.new_axis(out.shape[d], "Fourier modes")
    t.hidden([a for d, a in enumerate(label.axes) if d not in chosen])
    return label.with_axes(axes)


@rule("prelu", "_prelu_kernel")
def prelu(t: Tracer, out: Tensor, x: Tensor, slope: Tensor) -> Label:
    """A slope per channel (already broadcast in the kernel's form)."""
    label, w = t.label(x), t.label(slope)
    if len(w.axes) == 1 and len(label.axes) > 1:
        w = w.with_axes((w.axes[0], *[()] * (len(label.axes) - 2)))
    return t.broadcast([label, w], out.shape, "scale")


@rule("grid_sampler_2d", "grid_sampler_3d", "grid_sampler", "_grid_sampler_2d_cpu_fallback")
def grid_sampler(t: Tracer, out: Tensor, x: Tensor, grid: Tensor, *_: Any) -> Label:
    """Channels read at given positions."""
    label, where = t.activation(x), t.label(grid)
    t.fix(label.axes[2:], "positions that are sampled")
    t.fix_axis(where.axes[-1], "coordinates")
    batch = t.meet(label.axes[0], where.axes[0])
    t.hidden((batch, label.axes[1]))
    return Label((batch, label.axes[1], *where.axes[1:-1]), "activation")


@rule("_trilinear")
def trilinear(
    t: Tracer,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    summed: Sequence[int],
    *_: Any,
) -> Label:
    """Three tensors multiplied with broadcasting and summed; products of pairs are the sources."""
    labels = []
    for tensor, dims in ((a, expand_a), (b, expand_b), (c, expand_c)):
        axes = list(t.label(tensor).axes)
        for d in sorted(dims):
            axes.insert(d, ())
        labels.append(t.label(tensor).with_axes(axes))
    acts = [x for x in labels if x.kind != "parameter"]
    params = [x for x in labels if x.kind == "parameter"]
    rank = len(labels[0].axes)
    merged: list[Axis] = []
    for d in range(rank):
        axis: Axis = ()
        for x in acts:
            if x.axes[d]:
                axis = t.meet(axis, x.axes[d], "product") if axis else x.axes[d]
        merged.append(axis)
    t.hidden(merged)
    for param in params:
        inner = [d for d in summed if param.axes[d] and merged[d]]
        met = t.new_sites([merged[d] for d in inner], "product")
        for d in inner:
            t.unify(merged[d], param.axes[d])
        pairs = [Pair("src", param.axes[d], axis) for d, axis in zip(inner, met, strict=True)]
        fresh = [d for d in range(rank) if param.axes[d] and not merged[d]]
        for d in fresh:
            merged[d] = t.new_site(param.axes[d], t.origin_name(param.axes))
            pairs.append(Pair("dst", param.axes[d], merged[d]))
        t.use("linear", pairs)
    return Label(tuple(m for d, m in enumerate(merged) if d not in set(summed)), "activation")
