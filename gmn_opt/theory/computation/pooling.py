"""Pools over two spatial dims (those over one are made of them): maxima or means of windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gmn_opt.theory.computation.table import rule
from gmn_opt.theory.computation.windows import Windows

if TYPE_CHECKING:
    from gmn_opt.theory.computation.expander import Expander

Place = tuple[int, ...]


@rule("max_pool2d_with_indices")
def max_pool(
    ex: Expander, out: Any, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> tuple[Tensor, None]:  # fmt: skip
    """Maxima of windows; the places where they were found are not followed."""
    windows = _windows(kernel, stride, padding, dilation)
    return _pool(ex, "max", out[0], x, lambda at: _read(windows, at, x)), None


@rule("avg_pool2d")
def avg_pool(
    ex: Expander, out: Tensor, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """Means of windows."""
    if ceil_mode:
        raise NotImplementedError("No computation graph: an average pool with ceil_mode.")
    windows = _windows(kernel, stride, padding, 1)
    count = divisor_override or (prod(windows.kernel) if count_include_pad else None)
    return _pool(ex, "sum", out, x, lambda at: _read(windows, at, x), count)


@rule("_adaptive_avg_pool2d")
def adaptive_avg_pool(ex: Expander, out: Tensor, x: Tensor, size: Any) -> Tensor:
    """Means of as many windows as the output is large."""
    return _pool(ex, "sum", out, x, lambda at: _share(at, out, x))


@rule("adaptive_max_pool2d")
def adaptive_max_pool(ex: Expander, out: Any, x: Tensor, size: Any) -> tuple[Tensor, None]:
    """Maxima of as many windows as the output is large."""
    return _pool(ex, "max", out[0], x, lambda at: _share(at, out[0], x)), None


def _windows(kernel: Any, stride: Any, padding: Any, dilation: Any) -> Windows:
    def pair(value: Any) -> list[int]:
        return [value] * 2 if isinstance(value, int) else [*value] * (2 // len(value))

    return Windows(pair(kernel), pair(stride or kernel), pair(padding), pair(dilation))


def _read(windows: Windows, at: Place, x: Tensor) -> Iterable[Place]:
    return (where for _, where in windows.taps(at, x.shape[-2:]))


def _share(at: Place, out: Tensor, x: Tensor) -> Iterable[Place]:
    """The part of the input that an output position of an adaptive pool stands for."""
    sizes = zip(at, x.shape[-2:], out.shape[-2:], strict=True)
    return product(*(range(i * n // m, -(-(i + 1) * n // m)) for i, n, m in sizes))


def _pool(
    ex: Expander, op: str, out: Tensor, x: Tensor,
    window: Callable[[Place], Iterable[Place]], count: int | None = None,
) -> Tensor:  # fmt: skip
    new = ex.nodes(op, out.shape)
    for lead in product(*(range(n) for n in out.shape[:-2])):
        for at in product(*(range(n) for n in out.shape[-2:])):
            places = list(window(at))
            weight = 1.0 if op == "max" else 1.0 / (count or len(places))
            for where in places:
                ex.into(int(new[(*lead, *at)]), int(x[(*lead, *where)]), None, weight)
    return new
