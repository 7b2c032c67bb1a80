"""Convolutions, pools and resampling: channels pass, positions are fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Axis, Label
from gmn_opt.graph.tracing.record import Pair
from gmn_opt.graph.tracing.table import NoRuleError, first, rule
from gmn_opt.graph.tracing.tracer import Tracer


def positions(t: Tracer, out: Tensor, x: Label, spatial: int) -> tuple[Axis, ...]:
    """Fixed axes for the last ``spatial`` dims of the output; those of the input are fixed too."""
    reason = f"positions of {t.op}"
    for axis in x.axes[len(x.axes) - spatial :]:
        t.fix_axis(axis, reason)
    return lab.new_axes(out.shape[out.dim() - spatial :], reason)


def halves(t: Tracer, axis: Axis, outer: int) -> tuple[Axis, Axis]:
    """An axis as (groups, the rest), keeping sites and origins."""
    inner = lab.axis_size(axis) // outer
    if inner == 1:
        return axis, ()
    if outer == 1:
        return (), axis
    cut = sets.cut_product(lab.sets_of(axis), inner)
    if cut is None:
        t.fix_axis(axis, f"groups of {t.op} that do not fit")
        raise NoRuleError(f"{t.op}: groups that do not fit")
    legs = lab.expand_axis(axis)
    seen = 1
    for i, leg in enumerate(legs):
        if seen == outer:
            return tuple(legs[:i]), tuple(legs[i:])
        seen *= leg.set.size
    return tuple(legs), ()


@rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def convolution(
    t: Tracer,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *_: Any,
) -> Label:
    """``[n, (g i), ...]`` and ``[(g o), i, ...]`` to ``[n, (g o), ...]``."""
    data, w = t.activation(x), t.label(weight)
    if w.kind == "activation":
        raise NoRuleError("a convolution whose kernel is computed from activations")
    for axis in w.axes[2:]:
        t.fix_axis(axis, "kernel positions")
    x_group, x_in = halves(t, data.axes[1], groups)
    w_group, w_first = halves(t, w.axes[0], groups)
    w_in, w_out = (w_first, w.axes[1]) if transposed else (w.axes[1], w_first)
    t.unify(x_group, w_group)
    t.unify(x_in, w_in)
    t.hidden((w_group, w_out, w_in))
    made = (*w_group, *w_out)
    channel = t.new_site(made, t.origin_name([made])) if w.kind == "parameter" else made
    if w.kind == "parameter":
        t.use(
            "conv",
            [
                Pair("dst", made, channel),
                Pair("src", w_in, x_in),
                Pair("src", w_group, x_group),
                *(Pair("kernel", axis, axis) for axis in w.axes[2:]),
            ],
            fan_in=weight[0].numel() if not transposed else weight.shape[0] * weight[0, 0].numel(),
            fan_out=out.shape[1],
            stride=stride[0],
            padding=padding[0],
            dilation=dilation[0],
            groups=groups,
            transposed=float(transposed),
        )
    if bias is not None:
        added = t.label(bias)
        t.unify(added.axes[0], channel)
        if added.kind == "parameter":
            t.use("bias", [Pair("dst", added.axes[0], channel)])
    spatial = out.dim() - 2
    small = all(k == 1 for k in weight.shape[2:]) and out.shape[2:] == x.shape[2:]
    if small and all(s == 1 for s in stride) and not any(padding):
        return Label((data.axes[0], channel, *data.axes[2:]), "activation")
    t.hidden((data.axes[0], channel))
    return Label((data.axes[0], channel, *positions(t, out, data, spatial)), "activation")


@rule("deform_conv2d")
def deformable(
    t: Tracer, out: Tensor, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor,
    bias: Tensor | None, *numbers: Any,
) -> Label:  # fmt: skip
    """A convolution that reads where ``offset`` says, other places for each group of channels."""
    stride, padding, dilation = numbers[0:2], numbers[2:4], numbers[4:6]
    groups, offset_groups, masked = numbers[6:9]
    data, reason = t.activation(x), "positions of a deformable convolution"
    shifts = [t.activation(offset), *([t.activation(mask)] if masked else [])]
    t.fix([*data.axes[2:], *(a for s in shifts for a in s.axes[1:])], reason)
    for shift in shifts:
        t.unify(data.axes[0], shift.axes[0])
    if offset_groups > 1:
        t.fix_axis(halves(t, data.axes[1], offset_groups)[0], reason)
    made = convolution(t, out, x, weight, bias, stride, padding, dilation, False, (0, 0), groups)
    t.hidden(made.axes[:2])
    return Label((*made.axes[:2], *lab.new_axes(out.shape[2:], reason)), "activation")


_POOLS_1D = ("avg_pool1d", "max_pool1d", "adaptive_avg_pool1d", "upsample_nearest1d",
             "upsample_linear1d", "_upsample_nearest_exact1d", "reflection_pad1d",
             "replication_pad1d")  # fmt: skip
_POOLS_2D = ("avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
             "max_pool2d_with_indices", "upsample_nearest2d", "_upsample_nearest_exact2d",
             "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d",
             "_upsample_bicubic2d_aa", "reflection_pad2d", "replication_pad2d",
             "max_pool2d", "fractional_max_pool2d")  # fmt: skip
_POOLS_3D = ("avg_pool3d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
             "max_pool3d_with_indices", "upsample_nearest3d", "upsample_trilinear3d",
             "_upsample_nearest_exact3d", "reflection_pad3d", "replication_pad3d",
             "max_pool3d")  # fmt: skip


def pool(spatial: int) -> Any:
    """A rule for operators that act on the last ``spatial`` dims, channel by channel."""

    def apply(t: Tracer, out: Any, x: Tensor, *_: Any, **__: Any) -> list[Label]:
        label = t.label(x)
        kept = label.axes[: len(label.axes) - spatial]
        t.hidden(kept)
        made = Label((*kept, *positions(t, first(out), label, spatial)), label.kind)
        return [made, made]

    return apply


rule(*_POOLS_1D)(pool(1))
rule(*_POOLS_2D)(pool(2))
rule(*_POOLS_3D)(pool(3))
