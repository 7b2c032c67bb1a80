"""The native way between nodes and the ends of blocks; see :mod:`gmn_opt.metanet.incidence`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet.native.parts import DTYPES, PART, address, in_parts

_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p


def outputs(
    way: str, counts: Sequence[int], first: Tensor | None, second: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Empty tensors for what :meth:`NativeIncidence.run` gives."""
    like = second if first is None else first
    assert like is not None
    nodes, blocks, rows, columns = counts
    batch = like.shape[0]  # len() would fix the size in a compiled program
    if way == "pool":
        f = like.shape[1]
        return like.new_empty(batch, nodes, 2 * f), like.new_empty(batch, blocks, f)
    f = like.shape[2] if first is None else like.shape[2] // 2
    return like.new_empty(batch, f, rows), like.new_empty(batch, f, columns)


class NativeIncidence:
    """Functions of a library; shapes are those of the backends with one leading dimension."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[tuple[str, torch.dtype], Any] = {}
        for name in ("gather", "pool"):
            for dtype, suffix in DTYPES.items():
                function = library[f"gmn_opt_{name}_{suffix}"]
                function.argtypes = [*[_INT] * 5, *[_POINTER] * 2, *[_INT] * 2, *[_POINTER] * 4]
                self._functions[name, dtype] = function

    def run(
        self,
        way: str,
        numbers: Tensor,
        values: Tensor,
        counts: Sequence[int],
        first: Tensor | None,
        second: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """``"gather"`` (pairs, per_block) to (dst, src), or ``"pool"`` these to those.

        ``numbers`` and ``values`` are maps, packed; ``counts`` N, blocks, D, E. An input may be
        None and counts as zeros, but not both.
        """
        out = outputs(way, counts, first, second)
        batch, f = out[0].shape[:2] if way == "gather" else out[1].shape[::2]
        # contiguous copies must live as long as their pointers
        given = [None if t is None else t.contiguous() for t in (first, second)]
        function = self._functions[way, out[0].dtype]
        pointers = [address(t) for t in (*given, *out)]
        maps = (numbers.data_ptr(), values.data_ptr())
        work = batch * f * len(values)
        parts = max(1, min(torch.get_num_threads(), batch, work // PART))

        def part(i: int) -> None:
            cut = (batch * i // parts, batch * (i + 1) // parts)
            if function(f, *counts, *maps, *cut, *pointers):
                raise MemoryError("The way to the ends of blocks could not allocate its memory.")

        in_parts(parts, part)
        return out
