"""The one operation of a metanet that touches every edge.

The edges of all blocks stand in one tensor ``x`` [..., g, P], block after block, each in its
``[D, E]`` form. With the states of the ends, ``src`` [..., f, sum of E] and ``dst``
[..., f, sum of D] (blocks one after the other as well), for every block

    h = silu(W x + src + dst)         [..., f, D, E]
    new edge states = R x + h         (R None: the identity)
    at_dst = mean of h over E, at_src = mean of h over D

:func:`plain` writes this down. :func:`fused` does the same over tiles that stay in the cache,
keeps nothing for the backward pass but ``x``, and computes ``h`` again there: the intermediates
of a pass over all edges cost more to write and read than to make. On a CPU it is native code
(:mod:`gmn_opt.metanet.native`), elsewhere, and where that has not been built, torch's operators
(:mod:`gmn_opt.metanet.tiles`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from gmn_opt.metanet import native, tiles
from gmn_opt.metanet.native import operators

#: ``(D, E)`` of every block.
Sizes = tuple[tuple[int, int], ...]
#: New edge states (None when not wanted), means at destinations and at sources.
Messages = tuple[Tensor | None, Tensor, Tensor]


def mix(weight: Tensor, channels: Tensor) -> Tensor:
    """``weight`` [..., f, g] times ``channels`` [..., g, n], as one product per network.

    ``torch.matmul`` of a matrix and a batch turns the batch first, which costs a copy.
    """
    lead = channels.shape[:-2]
    if not lead:
        return weight @ channels
    f, g = weight.shape[-2:]
    flat = torch.bmm(
        weight.expand(*lead, f, g).reshape(-1, f, g), channels.reshape(-1, g, channels.shape[-1])
    )
    return flat.view(*lead, f, channels.shape[-1])


def plain(
    sizes: Sizes,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
    keep_edges: bool = True,
    score: Tensor | None = None,
) -> Messages:
    """One pass over all edges, written down; arguments as for :func:`edge_messages`.

    With ``score`` [2 * heads, f] the means are weighted by a softmax of scores ``S h``: edges are
    scored for their destination and for their source, and each head weighs its share of the f
    channels, over the edges of a row and over those of a column.
    """
    per_block = weight.dim() > 2
    new, at_dst, at_src = [], [], []
    parts = zip(
        sizes,
        x.split([d * e for d, e in sizes], -1),
        src.split([e for _, e in sizes], -1),
        dst.split([d for d, _ in sizes], -1),
        strict=True,
    )
    for i, ((d, e), part, s, t) in enumerate(parts):
        w = weight[..., i, :, :] if per_block else weight
        z = mix(w, part).unflatten(-1, (d, e))
        h = silu(z + s.unsqueeze(-2) + t.unsqueeze(-1))
        means = (h.mean(-1), h.mean(-2)) if score is None else _attended(h, score)
        at_dst.append(means[0])
        at_src.append(means[1])
        if keep_edges and residual is not None:
            part = mix(residual[..., i, :, :] if per_block else residual, part)
        if keep_edges:
            new.append(part + h.flatten(-2))
    return torch.cat(new, -1) if keep_edges else None, torch.cat(at_dst, -1), torch.cat(at_src, -1)


def _attended(h: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Of messages ``h`` [..., f, D, E], the weighted means over E and over D."""
    heads = len(score) // 2
    scores = mix(score, h.flatten(-2)).unflatten(-1, h.shape[-2:]).unflatten(-3, (2, heads))
    inward, outward = scores.unbind(-4)
    per_head = h.unflatten(-3, (heads, -1))
    at_dst = (per_head * inward.softmax(-1).unsqueeze(-3)).sum(-1)
    at_src = (per_head * outward.softmax(-2).unsqueeze(-3)).sum(-2)
    return at_dst.flatten(-3, -2), at_src.flatten(-3, -2)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernel: native.NativeKernel | None,
        sizes: Sizes,
        keep_edges: bool,
        *inputs: Any,
    ) -> Messages:
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        ctx.kernel, ctx.sizes = kernel, sizes
        return (tiles.forward if kernel is None else kernel.forward)(sizes, keep_edges, *inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():
            # where the gradient is differentiated in turn, autograd must see operators
            run = _recorded_backward
        else:
            run = tiles.backward if ctx.kernel is None else ctx.kernel.backward
        return (None, None, None, *run(ctx.sizes, ctx.saved_tensors, needed, grads))


def _recorded_backward(
    sizes: Sizes,
    inputs: tuple[Tensor, ...],
    needed: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    x, weight, residual, src, dst = inputs
    pairs = zip(plain(sizes, x, weight, residual, src, dst), grads, strict=True)
    chosen = [(o, g) for o, g in pairs if o is not None and g is not None]
    wanted = [t for t, n in zip(inputs, needed, strict=True) if n]
    outputs, weights = [o for o, _ in chosen], [g for _, g in chosen]
    found = torch.autograd.grad(outputs, wanted, weights, create_graph=True, allow_unused=True)
    given = iter(found)
    return tuple(next(given) if n else None for n in needed)


def fused(
    sizes: Sizes,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
    keep_edges: bool = True,
) -> Messages:
    """:func:`plain` by native code where it serves, else by torch's operators, tile by tile."""
    lead = x.shape[:-2]

    def joined(t: Tensor, dims: int = 2) -> Tensor:
        own = t.shape[t.dim() - dims :]
        return t.expand(*lead, *own).reshape(-1, *own)

    def matrix(t: Tensor) -> Tensor:
        return t if t.dim() == 2 else joined(t, 3)

    given = (
        joined(x),
        matrix(weight),
        None if residual is None else matrix(residual),
        joined(src),
        joined(dst),
    )
    if torch.compiler.is_compiling():
        flat = [n for size in sizes for n in size]
        new, at_dst, at_src = operators.edge_pass(flat, keep_edges, *given)
        new = new if keep_edges else None
    else:
        kernel = native.kernel()
        if kernel is not None and not kernel.serves(*given):
            kernel = None
        new, at_dst, at_src = _Fused.apply(kernel, sizes, keep_edges, *given)
    at_dst, at_src = (t.view(*lead, *t.shape[1:]) for t in (at_dst, at_src))
    return None if new is None else new.view(*lead, *new.shape[1:]), at_dst, at_src


def edge_messages(
    sizes: Sizes,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    src: Tensor,
    dst: Tensor,
    keep_edges: bool = True,
) -> Messages:
    """One pass over all edges, in the way that suits the circumstances.

    Args:
        sizes: ``(D, E)`` of every block.
        x: edge states ``[..., g, P]``.
        weight, residual: ``[f, g]``, or ``[..., blocks, f, g]``: one matrix per block.
        src, dst: ``[..., f, sum of E]`` and ``[..., f, sum of D]``.
        keep_edges: whether the new edge states are wanted.

    Transforms of ``torch.func`` and autocast cannot see into the fused form, and a compiler fuses
    the plain one better, unless there is native code.
    """
    hidden_from_us = operators.is_hidden(x) or (
        torch.compiler.is_compiling() and not operators.compiles(x)
    )
    return (plain if hidden_from_us else fused)(sizes, x, weight, residual, src, dst, keep_edges)
