"""Native code: in eager mode called at once, in compiled programs by way of operators of torch.

A compiler sees the operators as they are and fuses what is around them. Their derivatives are the
``autograd.Function`` that eager mode applies by itself: past the dispatcher, which takes about 40
microseconds per call of an operator that is registered with ``torch.library.custom_op``, a tenth of
a metanet's forward pass over a batch of small networks. Once differentiable in compiled programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmn_opt.eager import constant
from gmn_opt.metanet import native
from gmn_opt.metanet.backends.fused import Fused, Gradients, batched, unbatched
from gmn_opt.metanet.backends.plain import Messages
from gmn_opt.metanet.incidence import Incidence, Packed
from gmn_opt.metanet.layout import Sizes
from gmn_opt.metanet.native import is_hidden, is_served, outputs

__all__ = ["compiles", "edge_pass", "gather", "is_hidden", "pool", "serves"]


@constant
def _is_built() -> bool:
    return native.kernel() is not None


def compiles(like: Tensor) -> bool:
    """Whether a program that is being compiled calls native code for tensors like this."""
    return like.device.type == "cpu" and like.dtype in native.DTYPES and _is_built()


def serves(*tensors: Tensor) -> bool:
    """Whether native code takes these tensors: of the CPU, of one dtype that it has."""
    like = tensors[0].dtype
    return native.kernel() is not None and all(t.dtype is like and is_served(t) for t in tensors)


def gather(
    incidence: Incidence, pairs: Tensor, per_block: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See :mod:`gmn_opt.metanet.backends`."""
    return _along("gather", incidence.gathering, incidence, pairs, per_block)


def pool(incidence: Incidence, dst: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
    """See :mod:`gmn_opt.metanet.backends`."""
    return _along("pool", incidence.pooling, incidence, dst, src)


def edge_pass(
    sizes: Sizes,
    keep_edges: bool,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
) -> Messages:
    """See :mod:`gmn_opt.metanet.backends`."""
    given = batched(x, weight, residual, src, dst)
    if torch.compiler.is_compiling():
        new, at_dst, at_src = torch.ops.gmn_opt.edge_pass(_flat(sizes), keep_edges, *given)
        found = (new if keep_edges else None, at_dst, at_src)
    else:
        found = Fused.apply(_Edges, sizes, keep_edges, *given)
    return unbatched(found, x.shape[:-2])


# ---------------------------------------------------------------------------------- operators

_OPERATORS = torch.library.Library("gmn_opt", "FRAGMENT")
_GIVEN = "Tensor x, Tensor weight, Tensor? residual, Tensor src, Tensor dst"
for _schema in (
    f"edge_pass(SymInt[] sizes, bool keep_edges, {_GIVEN}) -> (Tensor, Tensor, Tensor)",
    f"edge_pass_backward(SymInt[] sizes, {_GIVEN}, bool[] needed, Tensor? new, Tensor? at_dst, "
    "Tensor? at_src) -> Tensor[]",
    "along(str way, Tensor numbers, Tensor values, Tensor back_numbers, Tensor back_values, "
    "SymInt[] counts, Tensor? first, Tensor? second) -> (Tensor, Tensor)",
):
    _OPERATORS.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _kernel() -> native.NativeKernel:
    found = native.kernel()
    assert found is not None
    return found


def _flat(sizes: Sizes) -> list[int]:
    return [n for size in sizes for n in size]


def _pairs(sizes: Sequence[int]) -> Sizes:
    return tuple(zip(sizes[::2], sizes[1::2], strict=True))


def _or_empty(found: Sequence[Tensor | None], like: Tensor) -> list[Tensor]:
    return [like.new_empty(0) if t is None else t for t in found]


class _Edges:
    """The two halves of the pass over edges: native code, or its operator while that is traced."""

    @staticmethod
    def forward(sizes: Sizes, keep_edges: bool, *inputs: Any) -> Messages:
        """See `fused.Pass`."""
        if is_served(inputs[0]):
            return _kernel().edges.forward(sizes, keep_edges, *inputs)
        with torch._C._AutoDispatchBelowAutograd():
            new, *means = torch.ops.gmn_opt.edge_pass(_flat(sizes), keep_edges, *inputs)
        return new if keep_edges else None, means[0], means[1]

    @staticmethod
    def backward(
        sizes: Sizes, inputs: tuple[Tensor, ...], needed: tuple[bool, ...], grads: Gradients
    ) -> Gradients:
        """See `fused.Pass`."""
        if is_served(inputs[0]):
            return _kernel().edges.backward(sizes, inputs, needed, grads)
        found = torch.ops.gmn_opt.edge_pass_backward(_flat(sizes), *inputs, needed, *grads)
        return tuple(g if n else None for g, n in zip(found, needed, strict=True))


@torch.library.impl("gmn_opt::edge_pass", "CPU", lib=_OPERATORS)
def _(sizes: Sequence[int], keep_edges: bool, *inputs: Any) -> list[Tensor]:
    found = _kernel().edges.forward(_pairs(sizes), keep_edges, *inputs)
    return _or_empty(found, inputs[0])


@torch.library.impl("gmn_opt::edge_pass", "Autograd", lib=_OPERATORS)
def _(sizes: Sequence[int], keep_edges: bool, *inputs: Any) -> list[Tensor]:
    return _or_empty(Fused.apply(_Edges, _pairs(sizes), keep_edges, *inputs), inputs[0])


@torch.library.register_fake("gmn_opt::edge_pass", lib=_OPERATORS)
def _(sizes: Sequence[int], keep_edges: bool, *inputs: Any) -> list[Tensor]:
    x, weight, _, src, dst = inputs
    new = (x.shape[0], weight.shape[-2], x.shape[-1]) if keep_edges else (0,)
    return [x.new_empty(shape) for shape in (new, dst.shape, src.shape)]


@torch.library.impl("gmn_opt::edge_pass_backward", "CPU", lib=_OPERATORS)
def _(sizes: Sequence[int], *given: Any) -> list[Tensor]:
    inputs, needed, grads = given[:5], given[5], given[6:]
    found = _kernel().edges.backward(_pairs(sizes), inputs, needed, grads)
    return _or_empty([g if n else None for g, n in zip(found, needed, strict=True)], inputs[0])


@torch.library.register_fake("gmn_opt::edge_pass_backward", lib=_OPERATORS)
def _(sizes: Sequence[int], *given: Any) -> list[Tensor]:
    inputs, needed = given[:5], given[5]
    wanted = [t.new_empty(t.shape) if n else None for t, n in zip(inputs, needed, strict=True)]
    return _or_empty(wanted, inputs[0])


# -------------------------------------------------------------------------------------- along

#: The derivative of each way is the other, with its maps exchanged.
_OTHER_WAY = {"gather": "pool", "pool": "gather"}


def _along(
    way: str, maps: tuple[Packed, Packed], incidence: Incidence, *given: Tensor | None
) -> tuple[Tensor, Tensor]:
    assert given[0] is not None
    lead = given[0].shape[:-2]
    first, second = (
        None if t is None else t.expand(*lead, *t.shape[-2:]).reshape(-1, *t.shape[-2:])
        for t in given
    )
    if torch.compiler.is_compiling():
        tensors = [t for m in maps for t in (m.numbers, m.values)]
        found = torch.ops.gmn_opt.along(way, *tensors, list(incidence.counts), first, second)
    else:
        found = _Along.apply(way, *maps, incidence.counts, first, second)
    a, b = (t.view(*lead, *t.shape[1:]) for t in found)
    return a, b


class _Along(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, way: str, maps: Packed, back: Packed, counts: Sequence[int], *given: Any
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.other = (_OTHER_WAY[way], back, maps, counts)
        if is_served(given[0] if given[1] is None else given[1]):
            return _kernel().incidence.run(way, maps.numbers, maps.values, counts, *given)
        tensors = (maps.numbers, maps.values, back.numbers, back.values)
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(torch.ops.gmn_opt.along(way, *tensors, counts, *given))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        if all(g is None for g in grads):
            return (None,) * 6
        found = zip(_Along.apply(*ctx.other, *grads), ctx.needs_input_grad[4:], strict=True)
        return (None,) * 4 + tuple(g if needed else None for g, needed in found)


@torch.library.impl("gmn_opt::along", "CPU", lib=_OPERATORS)
def _(way: str, numbers: Tensor, values: Tensor, *given: Any) -> Any:
    return _kernel().incidence.run(way, numbers, values, *given[2:])


@torch.library.impl("gmn_opt::along", "Autograd", lib=_OPERATORS)
def _(way: str, numbers: Tensor, values: Tensor, *given: Any) -> Any:
    return _Along.apply(way, Packed(numbers, values), Packed(*given[:2]), *given[2:])


@torch.library.register_fake("gmn_opt::along", lib=_OPERATORS)
def _(way: str, numbers: Tensor, values: Tensor, *given: Any) -> Any:
    return outputs(way, *given[2:])
