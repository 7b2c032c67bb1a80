"""The native pass over edges: tensors to raw pointers, and work to threads.

Shapes are those of :mod:`gmn_opt.metanet.backends`, with one leading dimension ``batch``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet.native.parts import DTYPES, PART, address, in_parts

Sizes = tuple[tuple[int, int], ...]

_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p
#: sizes, blocks, batch, g, f, one matrix per block; x, weight, residual, src, dst; rows
_GIVEN: list[Any] = [_POINTER, *[_INT] * 4, ctypes.c_int, *[_POINTER] * 5, *[_INT] * 2]


class NativeEdges:
    """The pass over edges by a library of compiled functions.

    Results are bitwise the same from run to run for the same number of threads.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward, self._backward = {}, {}
        for dtype, name in DTYPES.items():
            self._forward[dtype] = library[f"gmn_opt_edge_forward_{name}"]
            self._forward[dtype].argtypes = [*_GIVEN, *[_POINTER] * 3]
            self._backward[dtype] = library[f"gmn_opt_edge_backward_{name}"]
            self._backward[dtype].argtypes = [*_GIVEN, *[_POINTER] * 8]

    def forward(
        self,
        sizes: Sizes,
        keep_edges: bool,
        x: Tensor,
        weight: Tensor,
        residual: Tensor | None,
        src: Tensor,
        dst: Tensor,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """New edge states (None without ``keep_edges``), means at destinations and at sources."""
        call = _Call(sizes, (x, weight, residual, src, dst))
        f = weight.shape[-2]
        new = x.new_empty(len(x), f, x.shape[-1]) if keep_edges else None
        at_dst = x.new_zeros(dst.shape)
        at_src = call.shared(src.shape)
        call.run(
            self._forward[x.dtype], lambda i: (address(new), address(at_dst), address(at_src[i]))
        )
        return new, at_dst, _total(at_src)

    def backward(
        self,
        sizes: Sizes,
        inputs: tuple[Tensor, ...],
        needed: tuple[bool, ...],
        grads: tuple[Tensor | None, ...],
    ) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, residual, src and dst, None where not needed.

        ``grads`` are those of the outputs of :meth:`forward`, None for zero.
        """
        x, weight, residual, src, dst = inputs
        call = _Call(sizes, (x, weight, residual, src, dst))
        above = [None if g is None else g.contiguous() for g in grads]
        pointers = [address(g) for g in above]
        g_x = x.new_empty(x.shape) if needed[0] else None
        g_weight = call.shared(weight.shape) if needed[1] else None
        g_residual = call.shared(residual.shape) if needed[2] and residual is not None else None
        g_src, g_dst = call.shared(src.shape), x.new_zeros(dst.shape)
        call.run(
            self._backward[x.dtype],
            lambda i: (
                *pointers,
                address(g_x),
                None if g_weight is None else address(g_weight[i]),
                None if g_residual is None else address(g_residual[i]),
                address(g_src[i]),
                address(g_dst),
            ),
        )
        return (
            g_x,
            None if g_weight is None else _total(g_weight),
            None if g_residual is None else _total(g_residual),
            _total(g_src),
            g_dst,
        )


class _Call:
    """One problem, its parts, and the arguments that all parts have in common."""

    def __init__(self, sizes: Sizes, given: tuple[Tensor | None, ...]) -> None:
        # contiguous copies must live as long as their pointers
        self.given = [None if t is None else t.contiguous() for t in given]
        x, weight = given[0], given[1]
        assert x is not None
        assert weight is not None
        self.like = x
        if any(t is not None and (t.dtype != x.dtype or t.device != x.device) for t in given):
            kinds = sorted({f"{t.dtype} on {t.device}" for t in given if t is not None})
            raise RuntimeError(f"The pass over edges needs tensors of one type, received {kinds}.")
        batch, g, edges = x.shape
        f = weight.shape[-2]
        threads = min(torch.get_num_threads(), batch * edges * f // PART)
        self.cuts = _cuts(sizes, batch, max(1, threads))
        pointers = [address(t) for t in self.given]
        self.common = (_flat(sizes), len(sizes), batch, g, f, weight.dim() > 2, *pointers)

    def shared(self, shape: torch.Size) -> Tensor:
        """Zeros that every part has for itself, ``[parts, *shape]``."""
        return self.like.new_zeros(len(self.cuts) - 1, *shape)

    def run(self, function: Any, own: Callable[[int], tuple[int | None, ...]]) -> None:
        """Run all parts; ``own`` gives the arguments of one after the common ones."""

        def part(i: int) -> None:
            failed = function(*self.common, self.cuts[i], self.cuts[i + 1], *own(i))
            if failed:
                raise MemoryError("The pass over edges could not allocate its working memory.")

        in_parts(len(self.cuts) - 1, part)


def _total(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)


@lru_cache(maxsize=256)
def _flat(sizes: Sizes) -> Any:
    """``sizes`` as an array of C."""
    return (_INT * (2 * len(sizes)))(*[n for size in sizes for n in size])


@lru_cache(maxsize=256)
def _cuts(sizes: Sizes, batch: int, parts: int) -> tuple[int, ...]:
    """Rows, counted over all networks, between which every part has about as many edges."""
    rows, edges = sum(d for d, _ in sizes), sum(d * e for d, e in sizes)
    found = [0]
    for part in range(1, parts):
        network, left = divmod(batch * edges * part // parts, edges)
        row = network * rows
        for d, e in sizes:
            if left < d * e:
                row += left // e
                break
            row, left = row + d, left - d * e
        found.append(row)
    return (*found, batch * rows)
