"""The native kernel as operators of torch, for ``torch.compile``.

A compiler sees them as they are and fuses what is around them. Once differentiable: the backward
pass of a compiled program is not differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmn_opt.metanet.native.calls import Sizes
from gmn_opt.metanet.native.library import kernel
from gmn_opt.metanet.native.parts import DTYPES
from gmn_opt.metanet.native.route_calls import Matrices, outputs


@torch.compiler.assume_constant_result
def is_built() -> bool:
    """Whether there is a kernel, for code that is being compiled."""
    return kernel() is not None


def compiles(like: Tensor) -> bool:
    """Whether a program that is being compiled calls native code for tensors like this."""
    return like.device.type == "cpu" and like.dtype in DTYPES and is_built()


def is_hidden(like: Tensor) -> bool:
    """Whether transforms of ``torch.func`` or autocast are at work: they cannot see native code."""
    return torch._C._are_functorch_transforms_active() or torch.is_autocast_enabled(
        like.device.type
    )


def _pairs(sizes: Sequence[int]) -> Sizes:
    return tuple(zip(sizes[::2], sizes[1::2], strict=True))


_GIVEN = (
    "SymInt[] sizes, bool keep_edges, Tensor x, Tensor weight, Tensor? residual, Tensor src, "
    "Tensor dst"
)


@torch.library.custom_op(
    "gmn_opt::edge_pass",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_GIVEN}) -> (Tensor, Tensor, Tensor)",
)
def edge_pass(
    sizes: Sequence[int],
    keep_edges: bool,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """:meth:`NativeKernel.forward`; ``sizes`` are flat, and edge states not wanted are empty."""
    found = kernel()
    assert found is not None
    new, at_dst, at_src = found.forward(_pairs(sizes), keep_edges, x, weight, residual, src, dst)
    return x.new_empty(0) if new is None else new, at_dst, at_src


@edge_pass.register_fake
def _(
    sizes: Sequence[int],
    keep_edges: bool,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    new = x.new_empty(x.shape[0], weight.shape[-2], x.shape[-1]) if keep_edges else x.new_empty(0)
    return new, x.new_empty(dst.shape), x.new_empty(src.shape)


@torch.library.custom_op(
    "gmn_opt::edge_pass_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_GIVEN}, bool of_x, Tensor? new, Tensor at_dst, Tensor at_src) -> Tensor[]",
)
def edge_pass_backward(
    sizes: Sequence[int],
    keep_edges: bool,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
    of_x: bool,
    new: Tensor | None,
    at_dst: Tensor,
    at_src: Tensor,
) -> list[Tensor]:
    """:meth:`NativeKernel.backward`; gradients that are not wanted are empty."""
    found = kernel()
    assert found is not None
    needed = (of_x, True, True, True, True)
    inputs: Any = (x, weight, residual, src, dst)
    grads = found.backward(_pairs(sizes), inputs, needed, (new, at_dst, at_src))
    return [x.new_empty(0) if g is None else g for g in grads]


@edge_pass_backward.register_fake
def _(
    sizes: Sequence[int],
    keep_edges: bool,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
    of_x: bool,
    *grads: Tensor | None,
) -> list[Tensor]:
    wanted = [x if of_x else None, weight, residual, src, dst]
    return [x.new_empty(0 if t is None else t.shape) for t in wanted]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.sizes, ctx.keep_edges, *tensors = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, new: Tensor, at_dst: Tensor, at_src: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[2:]
    found = edge_pass_backward(
        ctx.sizes,
        ctx.keep_edges,
        *ctx.saved_tensors,
        needed[0],
        new if ctx.keep_edges else None,
        at_dst,
        at_src,
    )
    return (None, None, *(g if n else None for g, n in zip(found, needed, strict=True)))


edge_pass.register_autograd(_backward, setup_context=_setup)


# ------------------------------------------------------------------- between nodes and blocks

#: The derivative of each way is the other, with its matrices exchanged.
OTHER_WAY = {"spread": "collect", "collect": "spread"}


@torch.library.custom_op(
    "gmn_opt::route",
    mutates_args=(),
    device_types="cpu",
    schema=(
        "(str way, Tensor numbers, Tensor values, Tensor back_numbers, Tensor back_values, "
        "SymInt[] sizes, Tensor first, Tensor second) -> (Tensor, Tensor)"
    ),
)
def route(
    way: str,
    numbers: Tensor,
    values: Tensor,
    back_numbers: Tensor,
    back_values: Tensor,
    sizes: Sequence[int],
    first: Tensor,
    second: Tensor,
) -> tuple[Tensor, Tensor]:
    """:meth:`NativeRoutes.run`; the second matrices are those of the derivative."""
    found = kernel()
    assert found is not None
    return found.routes.run(way, Matrices(numbers, values), sizes, first, second)


@route.register_fake
def _(
    way: str,
    numbers: Tensor,
    values: Tensor,
    back_numbers: Tensor,
    back_values: Tensor,
    sizes: Sequence[int],
    first: Tensor,
    second: Tensor,
) -> tuple[Tensor, Tensor]:
    return outputs(way, sizes, first, second)


def _setup_route(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.way, *matrices, ctx.sizes, _, _ = inputs
    ctx.save_for_backward(*matrices)


def _route_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    numbers, values, back_numbers, back_values = ctx.saved_tensors
    matrices = (back_numbers, back_values, numbers, values)
    return (None,) * 6 + tuple(route(OTHER_WAY[ctx.way], *matrices, ctx.sizes, *grads))


route.register_autograd(_route_backward, setup_context=_setup_route)
