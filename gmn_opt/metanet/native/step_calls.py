"""The native pass over a tensor for a step of the optimizer."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet.native.parts import DTYPES, PART, in_parts, is_served

_FACTORS = 11


class NativeStep:
    """A function of a library on contiguous tensors of the CPU, of one dtype and shape."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[torch.dtype, Any] = {}
        for dtype, name in DTYPES.items():
            function = getattr(library, f"gmn_opt_step_{name}")
            function.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64]
            self._functions[dtype] = function

    @staticmethod
    def serves(tensors: Sequence[Tensor]) -> bool:
        """Whether all of ``tensors`` can be given to :meth:`advance`."""
        first = tensors[0]
        return all(is_served(t) and t.is_contiguous() and t.dtype == first.dtype for t in tensors)

    def advance(self, tensors: Sequence[Tensor], factors: Sequence[float]) -> None:
        """Moments one gradient on, and what follows from them.

        Args:
            tensors: weights, gradient, the three moments (updated in place), look-ahead and
                direction (written).
            factors: the fields of ``Factors`` in step.cpp.
        """
        function, count = self._functions[tensors[0].dtype], tensors[0].numel()
        given = (ctypes.c_double * _FACTORS)(*factors)
        parts = max(1, min(torch.get_num_threads(), count // PART))
        arrays, size = [t.data_ptr() for t in tensors], tensors[0].element_size()

        def part(i: int) -> None:
            first, end = count * i // parts, count * (i + 1) // parts
            function(*(a + size * first for a in arrays), given, end - first)

        in_parts(parts, part)
