"""The native pass over tensors for a step of the optimizer."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet.native.parts import DTYPES, PART, in_parts, is_served

_ARRAYS, _FACTORS = 7, 11
#: Of a piece: its tensors, and what they are multiplied by.
Piece = tuple[Sequence[Tensor], Sequence[float]]


class NativeStep:
    """A function of a library on contiguous tensors of the CPU, of one dtype and shape."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[torch.dtype, Any] = {}
        for dtype, name in DTYPES.items():
            function = getattr(library, f"gmn_opt_step_{name}")
            function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64]
            self._functions[dtype] = function

    @staticmethod
    def serves(tensors: Sequence[Tensor]) -> bool:
        """Whether all of ``tensors`` can be given to :meth:`advance`."""
        first = tensors[0]
        return all(is_served(t) and t.is_contiguous() and t.dtype == first.dtype for t in tensors)

    def advance(self, pieces: Sequence[Piece]) -> None:
        """Moments one gradient on, and what follows from them.

        Args:
            pieces: each with its tensors, weights, gradient, the three moments (updated in place),
                look-ahead and direction (written); and the fields of ``Factors`` in step.cpp. Small
                ones take one call together, large ones as many threads as there are.
        """
        threads = torch.get_num_threads()
        small: dict[torch.dtype, list[Piece]] = {}
        for piece in pieces:
            tensors, factors = piece
            parts = min(threads, tensors[0].numel() // PART)
            if parts > 1:
                self._advance_parts(tensors, factors, parts)
            else:
                small.setdefault(tensors[0].dtype, []).append(piece)
        for dtype, some in small.items():
            arrays = [t.data_ptr() for tensors, _ in some for t in tensors]
            counts = [tensors[0].numel() for tensors, _ in some]
            self._call(dtype, arrays, list(chain(*(factors for _, factors in some))), counts)

    def _advance_parts(
        self, tensors: Sequence[Tensor], factors: Sequence[float], parts: int
    ) -> None:
        dtype, count, size = tensors[0].dtype, tensors[0].numel(), tensors[0].element_size()
        arrays = [t.data_ptr() for t in tensors]

        def part(i: int) -> None:
            first, end = count * i // parts, count * (i + 1) // parts
            self._call(dtype, [a + size * first for a in arrays], factors, [end - first])

        in_parts(parts, part)

    def _call(
        self,
        dtype: torch.dtype,
        arrays: Sequence[int],
        factors: Sequence[float],
        counts: Sequence[int],
    ) -> None:
        pieces = len(counts)
        self._functions[dtype](
            (ctypes.c_void_p * (_ARRAYS * pieces))(*arrays),
            (ctypes.c_double * (_FACTORS * pieces))(*factors),
            (ctypes.c_int64 * pieces)(*counts),
            pieces,
        )
