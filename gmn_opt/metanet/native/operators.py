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
from gmn_opt.metanet.native.route_calls import Matrices


@torch.compiler.assume_constant_result
def is_built() -> bool:
    """Whether there is a kernel, for code that is being compiled."""
    return kernel() is not None


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

_MATRICES = (
    "(Tensor numbers, Tensor values, Tensor back_numbers, Tensor back_values, SymInt[] sizes, "
)


@torch.library.custom_op(
    "gmn_opt::spread",
    mutates_args=(),
    device_types="cpu",
    schema=f"{_MATRICES}Tensor pairs, Tensor per_block) -> (Tensor, Tensor)",
)
def spread(
    numbers: Tensor,
    values: Tensor,
    back_numbers: Tensor,
    back_values: Tensor,
    sizes: Sequence[int],
    pairs: Tensor,
    per_block: Tensor,
) -> tuple[Tensor, Tensor]:
    """:meth:`NativeRoutes.spread`; the second matrices are those of the derivative."""
    found = kernel()
    assert found is not None
    return found.routes.spread(Matrices(numbers, values), _four(sizes), pairs, per_block)


@spread.register_fake
def _(
    numbers: Tensor,
    values: Tensor,
    back_numbers: Tensor,
    back_values: Tensor,
    sizes: Sequence[int],
    pairs: Tensor,
    per_block: Tensor,
) -> tuple[Tensor, Tensor]:
    _, _, rows, columns = sizes
    batch, f = pairs.shape[0], per_block.shape[-1]  # len() would fix the size
    return pairs.new_empty(batch, f, rows), pairs.new_empty(batch, f, columns)


@torch.library.custom_op(
    "gmn_opt::collect",
    mutates_args=(),
    device_types="cpu",
    schema=f"{_MATRICES}Tensor dst, Tensor src) -> (Tensor, Tensor)",
)
def collect(
    numbers: Tensor,
    values: Tensor,
    back_numbers: Tensor,
    back_values: Tensor,
    sizes: Sequence[int],
    dst: Tensor,
    src: Tensor,
) -> tuple[Tensor, Tensor]:
    """:meth:`NativeRoutes.collect`; the second matrices are those of the derivative."""
    found = kernel()
    assert found is not None
    return found.routes.collect(Matrices(numbers, values), _four(sizes), dst, src)


@collect.register_fake
def _(
    numbers: Tensor,
    values: Tensor,
    back_numbers: Tensor,
    back_values: Tensor,
    sizes: Sequence[int],
    dst: Tensor,
    src: Tensor,
) -> tuple[Tensor, Tensor]:
    nodes, blocks, _, _ = sizes
    batch, f = dst.shape[:2]
    return dst.new_empty(batch, nodes, 2 * f), dst.new_empty(batch, blocks, f)


def _four(sizes: Sequence[int]) -> tuple[int, int, int, int]:
    nodes, blocks, rows, columns = sizes
    return nodes, blocks, rows, columns


def _setup_matrices(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.sizes = inputs[4]


def _derivative_by(other: Any) -> Any:
    """The derivative of one of the two is the other, with its matrices exchanged."""

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        numbers, values, back_numbers, back_values = ctx.saved_tensors
        found = other(back_numbers, back_values, numbers, values, ctx.sizes, *grads)
        return (None,) * 5 + tuple(found)

    return backward


spread.register_autograd(_derivative_by(collect), setup_context=_setup_matrices)
collect.register_autograd(_derivative_by(spread), setup_context=_setup_matrices)
