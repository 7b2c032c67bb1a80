"""Native orthogonalization of small matrices."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet.native.parts import DTYPES, is_hidden, is_served

_FACTORS = 6
#: Multiplications from which on torch's products are faster, whatever its calls cost.
MOST = 1_500_000


class NativeOrthogonal:
    """A function of a library on matrices of the CPU that are not taller than wide."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[torch.dtype, Any] = {}
        for dtype, name in DTYPES.items():
            function = getattr(library, f"gmn_opt_orthogonal_{name}")
            pointer, count = ctypes.c_void_p, ctypes.c_int64
            function.argtypes = [pointer, pointer, count, count, count, count, pointer]
            self._functions[dtype] = function

    @staticmethod
    def serves(x: Tensor) -> bool:
        """Whether ``x`` [..., m, n] can be given to :meth:`__call__`."""
        m, n = x.shape[-2:]
        work = x.numel() // n * m * (17 * m + 2 * n) if n else 0  # of five iterations
        return 0 < work <= MOST and m <= n and is_served(x) and not is_hidden(x)

    def __call__(self, x: Tensor, steps: int, factors: Sequence[float]) -> Tensor:
        """``x`` after ``steps`` iterations; factors: see orthogonal.cpp."""
        x = x.contiguous()
        out, (m, n) = torch.empty_like(x), x.shape[-2:]
        given = (ctypes.c_double * _FACTORS)(*factors)
        function = self._functions[x.dtype]
        function(x.data_ptr(), out.data_ptr(), x.numel() // (m * n), m, n, steps, given)
        return out
