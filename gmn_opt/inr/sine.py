"""The sine of a SIREN.

On CPUs, torch's sine and cosine of single precision take as long as the matrix products around
them; native code takes a third of that, and multiplies the incoming gradient by the cosine in the
same pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet import native


class _Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        kernel = native.kernel()
        assert kernel is not None
        return kernel.sine.forward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        kernel = native.kernel()
        if torch.is_grad_enabled() or kernel is None or not _is_native(grad):
            # where the gradient is differentiated in turn, autograd must see operators
            return grad * torch.cos(x)
        return kernel.sine.backward(x, grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * torch.cos(ctx.saved_tensors[0])


def sine(x: Tensor) -> Tensor:
    """sin(x), as native code where that serves: single precision, on a CPU.

    Transforms of ``torch.func``, ``torch.compile`` and autocast see torch's operator.
    """
    if torch.compiler.is_compiling() or not _is_native(x):
        return torch.sin(x)
    out: Tensor = _Sine.apply(x.contiguous())
    return out


def _is_native(x: Tensor) -> bool:
    return (
        x.dtype is torch.float32
        and not native.is_hidden(x)
        and native.is_served(x)
        and native.kernel() is not None
    )
