"""The native way between nodes and the ends of blocks; see :mod:`gmn_opt.metanet.ends`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet.native.parts import DTYPES, PART, address, in_parts

_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p


@dataclass(frozen=True)
class Matrices:
    """Three sparse matrices: of destinations, of sources, and of blocks.

    ``numbers`` int64 has for each the number of rows, of entries, where every row begins, and the
    columns of the entries; ``values`` has the values of all entries. From nodes to ends, the
    matrices are [rows, nodes], [columns, nodes] and [rows, blocks]; back, they are their
    transposes in shape.
    """

    numbers: Tensor
    values: Tensor

    @staticmethod
    def of(parts: Sequence[tuple[Tensor, Tensor, Tensor, int]], dtype: torch.dtype) -> Matrices:
        """From (row, column, value) of all entries and the number of rows, matrix by matrix."""
        numbers, values = [], []
        for row, column, value, rows in parts:
            order = row.argsort(stable=True)
            begin = torch.zeros(rows + 1, dtype=torch.int64)
            begin[1:] = row.bincount(minlength=rows).cumsum(0)
            numbers += [torch.tensor([rows, len(row)]), begin, column[order]]
            values.append(value[order])
        return Matrices(torch.cat(numbers), torch.cat(values).to(dtype))


def outputs(
    way: str, sizes: Sequence[int], first: Tensor | None, second: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Empty tensors for what :meth:`NativeRoutes.run` gives."""
    like = second if first is None else first
    assert like is not None
    nodes, blocks, rows, columns = sizes
    batch = like.shape[0]  # len() would fix the size in a compiled program
    if way == "collect":
        f = like.shape[1]
        return like.new_empty(batch, nodes, 2 * f), like.new_empty(batch, blocks, f)
    f = like.shape[2] if first is None else like.shape[2] // 2
    return like.new_empty(batch, f, rows), like.new_empty(batch, f, columns)


class NativeRoutes:
    """Functions of a library.

    With ``N`` nodes, ``D`` rows and ``E`` columns of all blocks:

    pairs: ``[batch, N, 2 f]``, what nodes are as destinations before what they are as sources;
    per_block: ``[batch, blocks, f]``; dst: ``[batch, f, D]``; src: ``[batch, f, E]``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[tuple[str, torch.dtype], Any] = {}
        for name in ("spread", "collect"):
            for dtype, suffix in DTYPES.items():
                function = library[f"gmn_opt_{name}_{suffix}"]
                function.argtypes = [*[_INT] * 5, *[_POINTER] * 2, *[_INT] * 2, *[_POINTER] * 4]
                self._functions[name, dtype] = function

    def run(
        self,
        way: str,
        matrices: Matrices,
        sizes: Sequence[int],
        first: Tensor | None,
        second: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """``"spread"`` (pairs, per_block) to (dst, src), or ``"collect"`` these to those.

        ``sizes`` are N, blocks, D, E. An input may be None and counts as zeros, but not both.
        """
        out = outputs(way, sizes, first, second)
        batch, f = out[0].shape[:2] if way == "spread" else out[1].shape[::2]
        # contiguous copies must live as long as their pointers
        given = [None if t is None else t.contiguous() for t in (first, second)]
        function = self._functions[way, out[0].dtype]
        matrix = (matrices.numbers.data_ptr(), matrices.values.data_ptr())
        pointers = [address(t) for t in (*given, *out)]
        work = batch * f * len(matrices.values)
        parts = max(1, min(torch.get_num_threads(), batch, work // PART))

        def part(i: int) -> None:
            cut = (batch * i // parts, batch * (i + 1) // parts)
            if function(f, *sizes, *matrix, *cut, *pointers):
                raise MemoryError("The way to the ends of blocks could not allocate its memory.")

        in_parts(parts, part)
        return out
