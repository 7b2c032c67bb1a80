"""Sums, products and quotients, element by element and along dims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gmn_opt.theory.computation.table import rule

if TYPE_CHECKING:
    from gmn_opt.theory.computation.expander import Expander


@rule("add")
def add(ex: Expander, out: Tensor, a: Tensor, b: Any, alpha: float = 1) -> Tensor:
    """A sum of two tensors, or of a tensor and a number."""
    return _terms(ex, out, [a, _tensor(ex, b)], [1.0, float(alpha)])


@rule("sub")
def sub(ex: Expander, out: Tensor, a: Tensor, b: Any, alpha: float = 1) -> Tensor:
    """A difference."""
    return _terms(ex, out, [a, _tensor(ex, b)], [1.0, -float(alpha)])


@rule("mul")
def mul(ex: Expander, out: Tensor, a: Tensor, b: Any) -> Tensor:
    """A multiple, or a product of two tensors, whose order no node knows."""
    if not isinstance(b, Tensor):
        return _terms(ex, out, [a], [float(b)])
    new = ex.nodes("sum", out.shape)
    pairs = (x.expand(out.shape).reshape(-1).tolist() for x in (a, b))
    for dst, x, y in zip(new.reshape(-1).tolist(), *pairs, strict=True):
        ex.into(dst, x, y)
    return new


@rule("div")
def div(ex: Expander, out: Tensor, a: Tensor, b: Any) -> Tensor:
    """A quotient: a product with the reciprocal."""
    if not isinstance(b, Tensor):
        return _terms(ex, out, [a], [1.0 / float(b)])
    made: Tensor = mul(ex, out, a, ex.each("reciprocal", b, torch.reciprocal))
    return made


@rule("sum")
def sum_(
    ex: Expander, out: Tensor, a: Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> Tensor:
    """A sum over dims."""
    return _reduce(ex, "sum", out, a, dim)


@rule("mean")
def mean(
    ex: Expander, out: Tensor, a: Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> Tensor:
    """A mean over dims."""
    return _reduce(ex, "sum", out, a, dim, out.numel() / max(a.numel(), 1))


@rule("amax")
def amax(ex: Expander, out: Tensor, a: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """A maximum over dims."""
    return _reduce(ex, "max", out, a, dim)


@rule("max")
def max_(ex: Expander, out: Any, a: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """A maximum over everything, or over a dim with the places where it was found."""
    if isinstance(out, Tensor):
        return _reduce(ex, "max", out, a, None)
    return _reduce(ex, "max", out[0], a, dim), None


def _tensor(ex: Expander, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return ex.get(torch.tensor(float(value), dtype=torch.float64))


def _terms(ex: Expander, out: Tensor, parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    new = ex.nodes("sum", out.shape)
    for part, weight in zip(parts, weights, strict=True):
        flat = part.expand(out.shape).reshape(-1).tolist()
        for dst, a in zip(new.reshape(-1).tolist(), flat, strict=True):
            ex.into(dst, a, None, weight)
    return new


def _reduce(ex: Expander, op: str, out: Tensor, a: Tensor, dim: Any, weight: float = 1.0) -> Tensor:
    new = ex.nodes(op, out.shape)
    for dst, row in zip(new.reshape(-1).tolist(), _rows(a, dim), strict=True):
        for i in row:
            ex.into(dst, i, None, weight)
    return new


def _rows(a: Tensor, dim: Any) -> Iterator[list[int]]:
    """What is reduced together, for one output element after another."""
    dims = [dim] if isinstance(dim, int) else list(dim or range(a.dim()))
    dims = [d % a.dim() for d in dims]
    kept = [d for d in range(a.dim()) if d not in dims]
    count = torch.Size(a.shape[d] for d in kept).numel()
    yield from a.permute(*kept, *dims).reshape(count, -1).tolist()
