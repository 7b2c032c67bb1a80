"""Reductions, softmax, scans and sorts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Label
from gmn_opt.graph.tracing.rules.joining import cut
from gmn_opt.graph.tracing.table import first, rule
from gmn_opt.graph.tracing.tracer import Tracer


def reduced(label: Label, dims: Any, keepdim: bool) -> Label:
    """A label without the axes ``dims`` (all of them for None or an empty list)."""
    n = len(label.axes)
    every = dims is None or (not isinstance(dims, int) and len(dims) == 0)
    gone = set(range(n)) if every or not n else lab.chosen(dims, n)
    if keepdim:
        return label.with_axes([() if d in gone else a for d, a in enumerate(label.axes)])
    return label.with_axes([a for d, a in enumerate(label.axes) if d not in gone])


@rule("sum", "mean", "amax", "amin", "prod", "all", "any", "var", "std", "logsumexp", "nansum",
      "nanmean", "count_nonzero", "linalg_vector_norm", "norm", "var_mean", "std_mean",
      "aminmax")  # fmt: skip
def reduce(t: Tracer, out: Any, x: Tensor, *rest: Any, **kwargs: Any) -> list[Label]:
    """Symmetric functions of all elements along some axes."""
    label = t.label(x)
    at = 1 if t.op in ("linalg_vector_norm", "norm") else 0
    dims = rest[at] if len(rest) > at else kwargs.get("dim")
    if isinstance(dims, bool):
        dims = None
    return [reduced(label, dims, first(out).dim() == x.dim() and dims is not None)] * 2


@rule("max", "min", "argmax", "argmin", "median", "mode", "nanmedian", "kthvalue")
def extremum(t: Tracer, out: Any, x: Tensor, *rest: Any, **kwargs: Any) -> list[Label]:
    """The value is symmetric; who reads the position fixes the axis."""
    label = t.label(x)
    if rest and isinstance(rest[0], Tensor):
        return [t.broadcast([label, t.label(rest[0])], out.shape, "other")]
    at = 1 if t.op == "kthvalue" else 0
    dims = rest[at] if len(rest) > at else kwargs.get("dim")
    made = reduced(label, dims, first(out).dim() == x.dim() and dims is not None)
    positions = out[1] if isinstance(out, (tuple, list)) else out
    if "arg" in t.op or isinstance(out, (tuple, list)):
        chosen = label.axes if dims is None else (label.axes[dims],)
        t.later[id(positions)] = (tuple(chosen), f"positions found by {t.op}")
    return [made, made]


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(t: Tracer, out: Tensor, x: Tensor, dim: int, *_: Any, **__: Any) -> Label:
    """Each element over a sum along one axis."""
    label = t.label(x)
    if label.axes:
        t.hidden(reduced(label, dim, False).axes)
    return label


@rule("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "_cummax_helper")
def scan(t: Tracer, out: Any, x: Tensor, dim: int, *_: Any, **__: Any) -> list[Label]:
    """The order along the axis matters."""
    label = t.label(x)
    if label.axes:
        t.fix_axis(label.axes[dim], f"{t.op} depends on the order")
        t.hidden(reduced(label, dim, False).axes)
    return [label, label]


@rule("sort", "topk", "argsort", "msort")
def sort(t: Tracer, out: Any, x: Tensor, *rest: Any, **kwargs: Any) -> list[Label]:
    """Sorted values do not depend on the order; who reads the positions fixes the axis."""
    label = t.label(x)
    numbers = [r for r in rest if isinstance(r, int) and not isinstance(r, bool)]
    dim = kwargs.get("dim")
    if dim is None:
        at = 1 if t.op == "topk" else 0
        dim = numbers[at] if len(numbers) > at else (0 if t.op == "msort" else -1)
    if not label.axes:
        return [label, label]
    t.hidden(reduced(label, dim, False).axes)
    positions = out[1] if isinstance(out, (tuple, list)) else out
    t.later[id(positions)] = ((label.axes[dim],), f"positions found by {t.op}")
    made = label.with_axis(dim, lab.new_axis(first(out).shape[dim], f"sorted by {t.op}"))
    return [made, made]


@rule("glu")
def glu(t: Tracer, out: Tensor, x: Tensor, dim: int = -1) -> Label:
    """The first half times the sigmoid of the second."""
    label = t.label(x)
    dim %= len(label.axes)
    first, second = cut(t, label.axes[dim], [out.shape[dim]] * 2)
    return label.with_axis(dim, t.meet(first, second, "product"))
