"""What the rule reads: gradient accumulators and the update directions made from them.

All parameters stand in one flat vector, block after block, each block in its ``[D, E]`` form (see
``gmn_opt.metanet.layout``). The channels of a step are the weights and four directions:

    gradient    g / sqrt(v)
    fast        m / sqrt(v) with Nesterov's look-ahead (Adam, Kingma and Ba 2015; Dozat 2016)
    slow        m / sqrt(v) at a slower momentum
    orthogonal  the look-ahead of the fast momentum, orthogonalized (Muon, Jordan et al. 2024) and
                damped along its largest singular values; zero for blocks that the base does not
                orthogonalize
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmn_opt.metanet import BlockedGraph
from gmn_opt.optim.base import base_constants
from gmn_opt.optim.constants import layout_constants
from gmn_opt.optim.orthogonalize import orthogonalize_all

#: Names of the accumulators, in the order of their rows: two first moments and the second one.
MOMENTS = ("fast", "slow", "second")
#: Their decays.
DECAYS = (0.9, 0.99, 0.99)
#: sqrt(v + eps^2): finite second derivatives at exactly zero gradients, unlike sqrt(v) + eps.
EPS = 1e-10
CHANNELS = ("weight", "gradient", "fast", "slow", "orthogonal")
FAST, ORTHOGONAL = CHANNELS.index("fast"), CHANNELS.index("orthogonal")


def _noise_rms() -> tuple[float, ...]:
    fast, slow, _ = DECAYS
    share = 1 - fast
    ahead = fast**2 * share / (1 + fast) + share**2 + 2 * fast * share**2
    return 0.0, 1.0, ahead**0.5, ((1 - slow) / (1 + slow)) ** 0.5, 0.0


#: Root mean squares of the channels where gradients are independent noise of one size: what they
#: come back to. Zero where that says nothing.
NOISE_RMS = _noise_rms()
_PAIRS = [(i, j) for i in range(len(CHANNELS)) for j in range(i)]
#: Scalars per block made of its values.
BLOCK_SCALARS = len(_PAIRS) + 6


@dataclass(frozen=True)
class Statistics:
    """What the metanet reads of the values of every block.

    rms: of every channel, ``[..., blocks, len(CHANNELS)]``; scalars: ``[..., blocks,
    BLOCK_SCALARS]``.
    """

    rms: Tensor
    scalars: Tensor


@dataclass(frozen=True)
class _Constants:
    """Of a layout.

    rates: one minus each decay, ``[len(MOMENTS), 1]``; pairs: where the pairs of channels stand in
    a flattened Gram matrix; root_fan_in: ``[blocks]``.
    """

    rates: Tensor
    pairs: Tensor
    root_fan_in: Tensor


def _make_constants(layout: BlockedGraph, like: Tensor) -> _Constants:
    return _Constants(
        like.new_tensor([1 - d for d in DECAYS]).unsqueeze(-1),
        torch.tensor([i * len(CHANNELS) + j for i, j in _PAIRS], device=like.device),
        like.new_tensor([float(b.fan_in) for b in layout.blocks]).sqrt(),
    )


def _is_plain() -> bool:
    """Whether results may be written in place: nothing is recorded or transformed."""
    return not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()


def update_moments(layout: BlockedGraph, moments: Tensor, grad: Tensor) -> Tensor:
    """``moments`` [..., len(MOMENTS), P] after one more gradient [..., P]."""
    if _is_plain():  # without copies of the size of all moments
        after = torch.empty_like(moments)
        for i, (decay, seen) in enumerate(zip(DECAYS, (grad, grad, grad.square()), strict=True)):
            torch.lerp(moments[..., i, :], seen, 1 - decay, out=after[..., i, :])
        return after
    seen = torch.stack([grad, grad, grad.square()], -2)
    return torch.lerp(moments, seen, layout_constants(layout, grad, _make_constants).rates)


def channels(
    layout: BlockedGraph, theta: Tensor, grad: Tensor, moments: Tensor, step: int
) -> Tensor:
    """``[..., len(CHANNELS), P]`` from flat ``theta``, ``grad`` [..., P] and ``moments``.

    ``moments`` [..., M, P] have seen ``step`` gradients (at least 1), ``grad`` being the latest.
    """
    fast, slow, second = moments.unbind(-2)
    c_fast, c_slow, c_second = (1 / (1 - d**step) for d in DECAYS)
    scale = (second * c_second + EPS**2).rsqrt()
    ahead = torch.add(fast * (DECAYS[0] * c_fast), grad, alpha=1 - DECAYS[0])
    if _is_plain():  # each where it belongs, without copies
        out = theta.new_empty(*theta.shape[:-1], len(CHANNELS), theta.shape[-1])
        out[..., 0, :] = theta
        torch.mul(grad, scale, out=out[..., 1, :])
        torch.mul(ahead, scale, out=out[..., 2, :])
        torch.mul(slow, scale.mul_(c_slow), out=out[..., 3, :])
        for part, made in zip(
            out[..., 4, :].split(layout.edge_counts, -1), _orthogonal(layout, ahead), strict=True
        ):
            part.copy_(made) if made is not None else part.zero_()
        return out
    given = [theta, grad * scale, ahead * scale, slow * (scale * c_slow)]
    blocks = zip(_orthogonal(layout, ahead), ahead.split(layout.edge_counts, -1), strict=True)
    orthogonal = [torch.zeros_like(part) if made is None else made for made, part in blocks]
    return torch.stack([*given, torch.cat(orthogonal, -1)], -2)


def _orthogonal(layout: BlockedGraph, ahead: Tensor) -> list[Tensor | None]:
    """The orthogonalized look-ahead of every block, flat; None for those that have none."""
    numbers = base_constants(layout, ahead).orthogonal
    blocks = layout.blocks_of_flat(ahead)
    fast = not torch.is_grad_enabled()
    found: list[Tensor | None] = [None] * len(blocks)
    made = orthogonalize_all([blocks[i] for i in numbers], fast=fast, damped=True)
    for i, matrix in zip(numbers, made, strict=True):
        found[i] = matrix.flatten(-2)
    return found


def statistics(layout: BlockedGraph, values: Tensor) -> Statistics:
    """Sizes of the channels ``values`` [..., len(CHANNELS), P] and the angles between them."""
    constants = layout_constants(layout, values, _make_constants)
    base = base_constants(layout, values)
    grams = [part @ part.mT / part.shape[-1] for part in values.split(layout.edge_counts, -1)]
    gram = torch.stack(grams, -3)
    rms = (gram.diagonal(dim1=-2, dim2=-1) + EPS**2).sqrt()
    cosine = gram / (rms.unsqueeze(-1) * rms.unsqueeze(-2))
    weight, gradient, fast, slow, _ = rms.unbind(-1)
    sizes = [
        weight * constants.root_fan_in,
        gradient,
        fast,
        slow,
        base.sizes * base_rms(base.is_orthogonal, rms) / (weight + 1e-4),
        slow / fast,
    ]
    logs = torch.asinh(0.5 * (torch.stack(sizes, -1) + 1e-6).log())
    pairs = cosine.flatten(-2)[..., constants.pairs]
    return Statistics(rms, torch.cat([pairs, logs], -1))


def base_rms(is_orthogonal: Tensor, rms: Tensor) -> Tensor:
    """RMS of the base's direction, ``[..., blocks]``, of those of all channels."""
    return torch.where(is_orthogonal, rms[..., ORTHOGONAL], rms[..., FAST])
