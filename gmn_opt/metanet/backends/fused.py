"""The pass over edges as one operation that keeps nothing for its derivative but its inputs.

The intermediates of a pass over all edges cost more to write and read than to make, so the backward
pass makes them again.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from gmn_opt.metanet.backends import plain
from gmn_opt.metanet.backends.plain import Messages
from gmn_opt.metanet.layout import Sizes

Gradients = tuple[Tensor | None, ...]


class Pass(Protocol):
    """The two halves, on tensors with one leading dimension."""

    def forward(self, sizes: Sizes, keep_edges: bool, *inputs: Any) -> Messages:
        """As :mod:`gmn_opt.metanet.backends` says."""
        ...

    def backward(
        self,
        sizes: Sizes,
        inputs: tuple[Tensor, ...],
        needed: tuple[bool, ...],
        grads: Gradients,
    ) -> Gradients:
        """Gradients of the inputs, those not needed perhaps None.

        ``grads`` are those of the outputs of `forward`, None for zero.
        """
        ...


class Fused(torch.autograd.Function):
    """The one definition of its derivative, for every backend."""

    @staticmethod
    def forward(ctx: Any, run: Pass, sizes: Sizes, keep_edges: bool, *inputs: Any) -> Messages:
        """Run it."""
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        ctx.run, ctx.sizes = run, sizes
        return run.forward(sizes, keep_edges, *inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        """Run the other half."""
        # where the gradient is differentiated in turn, autograd must see operators
        run = _recorded if torch.is_grad_enabled() else ctx.run.backward
        needed = ctx.needs_input_grad[3:]
        return (None, None, None, *run(ctx.sizes, ctx.saved_tensors, needed, grads))


def _recorded(
    sizes: Sizes, inputs: tuple[Tensor, ...], needed: tuple[bool, ...], grads: Gradients
) -> Gradients:
    pairs = zip(plain.edge_pass(sizes, True, *inputs), grads, strict=True)
    chosen = [(o, g) for o, g in pairs if o is not None and g is not None]
    wanted = [t for t, n in zip(inputs, needed, strict=True) if n]
    outputs, weights = [o for o, _ in chosen], [g for _, g in chosen]
    found = torch.autograd.grad(outputs, wanted, weights, create_graph=True, allow_unused=True)
    given = iter(found)
    return tuple(next(given) if n else None for n in needed)


def batched(
    x: Tensor, weight: Tensor, residual: Tensor | None, src: Tensor, dst: Tensor
) -> tuple[Tensor | None, ...]:
    """Inputs of a pass with one leading dimension, which may have had any number."""
    lead = x.shape[:-2]

    def joined(t: Tensor | None, dims: int = 2) -> Tensor | None:
        if t is None or (dims == 3 and t.dim() == 2):
            return t
        own = t.shape[t.dim() - dims :]
        return t.expand(*lead, *own).reshape(-1, *own)

    return joined(x), joined(weight, 3), joined(residual, 3), joined(src), joined(dst)


def unbatched(found: Messages, lead: torch.Size) -> Messages:
    """Outputs with these leading dimensions."""
    new, at_dst, at_src = (None if t is None else t.view(*lead, *t.shape[1:]) for t in found)
    assert at_dst is not None
    assert at_src is not None
    return new, at_dst, at_src
