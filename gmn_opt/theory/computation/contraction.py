"""Matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gmn_opt.theory.computation.table import rule
from gmn_opt.theory.computation.windows import Windows

if TYPE_CHECKING:
    from gmn_opt.theory.computation.expander import Expander


@rule("mm")
def mm(ex: Expander, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A product of two matrices."""
    new = ex.nodes("sum", out.shape)
    for i, j, k in product(range(a.shape[0]), range(b.shape[1]), range(a.shape[1])):
        ex.into(int(new[i, j]), int(a[i, k]), int(b[k, j]))
    return new


@rule("addmm")
def addmm(ex: Expander, out: Tensor, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A product of two matrices, plus a bias."""
    new: Tensor = mm(ex, out, a, b)
    flat = bias.expand(out.shape).reshape(-1).tolist()
    for dst, i in zip(new.reshape(-1).tolist(), flat, strict=True):
        ex.into(dst, i)
    return new


@rule("bmm")
def bmm(ex: Expander, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Products of matrices, one by one."""
    return torch.stack([mm(ex, o, x, y) for o, x, y in zip(out, a, b, strict=True)])


@rule("convolution")
def convolution(
    ex: Expander, out: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, _: Any, groups: int,
) -> Tensor:  # fmt: skip
    """A convolution, unrolled over all positions."""
    if transposed:
        raise NotImplementedError("No computation graph: a transposed convolution.")
    new = ex.nodes("sum", out.shape)
    windows = Windows(w.shape[2:], stride, padding, dilation)
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for n, o in product(range(out.shape[0]), range(out.shape[1])):
        first = o // per_out * per_in
        for place in product(*(range(s) for s in out.shape[2:])):
            dst = int(new[(n, o, *place)])
            for at, where in windows.taps(place, x.shape[2:]):
                for c in range(per_in):
                    ex.into(dst, int(x[(n, first + c, *where)]), int(w[(o, c, *at)]))
            if bias is not None:
                ex.into(dst, int(bias[o]))
    return new
