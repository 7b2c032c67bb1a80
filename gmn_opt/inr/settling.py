"""The end of an edit: plain steps towards the predicted image.

Rounds of a metanet bring a network most of the way; what is left of the distance is taken by Adam
(Kingma & Ba 2015) at a rate that falls to zero, as in fitting, on a share of the pixels per step.
The aim is the image that the editor has predicted, never the reference. All is elementwise over
weights, so that permuting neurons permutes the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gmn_opt.inr.base import Inr, Params
from gmn_opt.inr.refining import pixels
from gmn_opt.inr.rendering import coordinates

#: Highest rate, for images that are as far apart as two photographs, and how far that is.
_RATE, _FAR = 4e-3, 0.1
#: How much faster features of grids move.
_GRIDS = 20.0
#: Least rate, relative, for images that are nearly the same.
_LEAST = 0.1
_BETAS, _EPS = (0.9, 0.99), 1e-8


@torch.no_grad()
def settle(inr: Inr, params: Mapping[str, Tensor], goal: Tensor, steps: int) -> Params:
    """Networks closer to what they ought to show.

    Args:
        inr: Their kind.
        params: ``{name: [N, *shape]}``.
        goal: ``[N, H, W, C]``.
        steps: 0 to leave all as it is.

    Returns:
        New tensors of the same shapes.
    """
    now = {n: p.clone() for n, p in params.items()}
    fast = {n: torch.zeros_like(p) for n, p in now.items()}
    slow = {n: torch.zeros_like(p) for n, p in now.items()}
    size = (goal.shape[1], goal.shape[2])
    points = coordinates(size, dtype=goal.dtype, device=goal.device)
    wanted, rate = goal.flatten(1, 2), None
    for step in range(steps):
        some = pixels(size, step, goal.device)
        with torch.enable_grad():
            known = {n: p.detach().requires_grad_() for n, p in now.items()}
            error = (inr.batched(known, points[some]) - wanted[:, some]).square().mean((1, 2))
            slopes = torch.autograd.grad(error.sum(), list(known.values()))
        if rate is None:
            rate = _RATE * (error.detach().sqrt() / _FAR**0.5).clamp(_LEAST, 1)
        falling = 0.5 * (1 + math.cos(math.pi * step / steps))
        for (name, p), slope in zip(now.items(), slopes, strict=True):
            fast[name].lerp_(slope, 1 - _BETAS[0])
            slow[name].lerp_(slope.square(), 1 - _BETAS[1])
            mean = fast[name] / (1 - _BETAS[0] ** (step + 1))
            root = (slow[name] / (1 - _BETAS[1] ** (step + 1))).sqrt() + _EPS
            faster = _GRIDS if name.startswith("grids.") else 1.0
            p -= faster * falling * rate.view(-1, *[1] * (p.dim() - 1)) * mean / root
    return now
