"""What truncated and full backpropagation through an unroll share."""

from __future__ import annotations

import torch

from gmn_opt.meta.estimators.base import Estimate, Window
from gmn_opt.meta.rules import Rule
from gmn_opt.meta.unroll import unroll


def backpropagate(rule: Rule, window: Window, second_order: bool, chunk: int | None) -> Estimate:
    """Unroll ``window`` and differentiate its meta-loss; see :func:`gmn_opt.meta.unroll`.

    A window with a loss that is not finite has NaN as its gradient: nothing is differentiated. One
    in which the rule follows an earlier thought all along has none.
    """
    own = dict(rule.named_parameters())
    out = unroll(rule, window, second_order, chunk)
    if not out.meta_loss.requires_grad:
        found = [torch.zeros_like(p) for p in own.values()]
    elif bool(out.losses.isfinite().all()):
        grads = torch.autograd.grad(out.meta_loss, list(own.values()), allow_unused=True)
        # parts of a rule that this task does not use
        found = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(own.values(), grads, strict=True)
        ]
    else:
        found = [torch.full_like(p, torch.nan) for p in own.values()]
    return Estimate(
        dict(zip(own, found, strict=True)),
        out.meta_loss.detach(),
        out.losses,
        out.state.detach(),
        {},
    )
