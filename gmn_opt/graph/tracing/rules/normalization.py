"""Normalization layers: statistics over some axes, then a scale and a shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gmn_opt.graph.structure import BlockKind
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Axis, Label
from gmn_opt.graph.tracing.record import Pair
from gmn_opt.graph.tracing.rules.convolution import halves
from gmn_opt.graph.tracing.table import rule
from gmn_opt.graph.tracing.tracer import Tracer


def affine(t: Tracer, axes: Sequence[Axis], tensor: Tensor | None, kind: BlockKind) -> None:
    """A scale or shift that runs over ``axes``."""
    if tensor is None:
        return
    label = t.label(tensor)
    pairs = []
    for p, x in zip(label.axes, axes, strict=True):
        t.unify(x, p)
        pairs.append(Pair("dst", p, x))
    if label.kind == "parameter":
        t.use(kind, pairs)


def with_statistics(out: Any, label: Label) -> list[Label]:
    """The label of a result, and fixed ones for what only a backward pass reads."""
    rest = out[1:] if isinstance(out, (tuple, list)) else ()
    saved = [lab.new_axes(x.shape, "saved statistics") for x in rest if isinstance(x, Tensor)]
    return [label, *(Label(axes, "activation") for axes in saved)]


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_impl_index", "batch_norm",
    "_batch_norm_with_update", "_batch_norm_no_update", "_native_batch_norm_legit_functional",
)  # fmt: skip
def batch_norm(
    t: Tracer,
    out: Any,
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *rest: Any,
    **_: Any,
) -> list[Label]:
    """Statistics per channel, shared over everything else."""
    label = t.label(x)
    channel = label.axes[1]
    affine(t, [channel], weight, "scale")
    affine(t, [channel], bias, "shift")
    for statistic in rest:
        if isinstance(statistic, Tensor) and statistic.dim() == 1:
            t.unify(channel, t.label(statistic).axes[0])
    t.hidden([channel])
    return with_statistics(out, label)


@rule("native_layer_norm", "layer_norm")
def layer_norm(
    t: Tracer,
    out: Any,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> list[Label]:
    """Statistics over the last axes, one per position."""
    label = t.label(x)
    kept = len(label.axes) - len(shape)
    t.hidden(label.axes[:kept])
    label = t.materialize(label)
    affine(t, label.axes[kept:], weight, "scale")
    affine(t, label.axes[kept:], bias, "shift")
    return with_statistics(out, label)


@rule("_fused_rms_norm", "rms_norm")
def rms_norm(
    t: Tracer,
    out: Any,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> list[Label]:
    """Mean square over the last axes, one per position."""
    return layer_norm(t, out, x, shape, weight)


@rule("native_group_norm", "group_norm")
def group_norm(
    t: Tracer,
    out: Any,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    n: int,
    channels: int,
    positions: int,
    groups: int,
    *_: Any,
) -> list[Label]:
    """Statistics per group of channels: channels stay within their group, groups may move."""
    label = t.label(x)
    group, rest = halves(t, label.axes[1], groups)
    affine(t, [(*group, *rest)], weight, "scale")
    affine(t, [(*group, *rest)], bias, "shift")
    t.hidden((label.axes[0], group))
    return with_statistics(out, label)


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(t: Tracer, out: Any, v: Tensor, g: Tensor, dim: int = 0) -> list[Label]:
    """``g * v / |v|``, the norm taken over all dims but ``dim``."""
    direction, length = t.label(v), t.label(g)
    at = dim % len(direction.axes)
    t.hidden([direction.axes[at]])
    axes = list(direction.axes)
    if len(length.axes) == len(axes):
        axes[at] = t.meet(axes[at], length.axes[at])
    return with_statistics(out, direction.with_axes(axes))
