"""Operators that fit no family: attention kernels, constants made of numbers, Fourier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from gmn_opt.graph.labels import Leg, Node
from gmn_opt.graph.rules.table import rule
from gmn_opt.graph.uses import Label

if TYPE_CHECKING:
    from gmn_opt.graph.tracing import Tracer


@rule("arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "hann_window",
      "fft_fftfreq", "fft_rfftfreq")  # fmt: skip
def numbers(t: Tracer, out: Tensor, *_: Any, **__: Any) -> Label:
    """Constants whose elements differ."""
    return Label(tuple((Leg(Node(n, f"made by {t.op}")),) for n in out.shape), "constant")


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(t: Tracer, out: Tensor, x: Tensor, dims: Any, *_: Any, **__: Any) -> Label:
    """Transformed axes are fixed; the others pass."""
    label = t.label(x)
    chosen = {d % len(label.axes) for d in ([dims] if isinstance(dims, int) else dims)}
    axes = list(label.axes)
    for d in chosen:
        t.fix_axis(axes[d], "Fourier modes")
        axes[d] = (Leg(Node(out.shape[d], "Fourier modes")),)
    t.hidden([a for d, a in enumerate(label.axes) if d not in chosen])
    return label.with_axes(axes)


@rule("prelu", "_prelu_kernel")
def prelu(t: Tracer, out: Tensor, x: Tensor, slope: Tensor) -> Label:
    """A slope per channel (already broadcast in the kernel's form)."""
    label, w = t.label(x), t.label(slope)
    if len(w.axes) == 1 and len(label.axes) > 1:
        w = w.with_axes((w.axes[0], *[()] * (len(label.axes) - 2)))
    return t.broadcast([label, w], out.shape, "scale")
