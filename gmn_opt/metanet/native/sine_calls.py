"""Native sines of single precision, for networks that are made of them."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet.native.parts import PART, in_parts


class NativeSine:
    """Functions of a library on contiguous float32 tensors of the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward, self._backward = library.gmn_opt_sine, library.gmn_opt_sine_backward
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._forward.argtypes = [pointer, pointer, count]
        self._backward.argtypes = [pointer, pointer, pointer, count]

    def forward(self, x: Tensor) -> Tensor:
        """sin(x)."""
        return self._run(self._forward, x)

    def backward(self, x: Tensor, grad: Tensor) -> Tensor:
        """cos(x) times ``grad``."""
        return self._run(self._backward, x, grad.contiguous())

    def _run(self, function: Any, *given: Tensor) -> Tensor:
        out = torch.empty_like(given[0])
        count = out.numel()
        parts = max(1, min(torch.get_num_threads(), count // PART))
        arrays = [t.data_ptr() for t in (*given, out)]

        def part(i: int) -> None:
            first, end = count * i // parts, count * (i + 1) // parts
            function(*(a + out.element_size() * first for a in arrays), end - first)

        in_parts(parts, part)
        return out
