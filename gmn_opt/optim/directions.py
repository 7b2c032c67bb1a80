"""What the rule reads: gradient accumulators and the update directions made from them.

All parameters stand in one flat vector, block after block, each block in its ``[D, E]`` form (see
``gmn_opt.metanet.layout``). The channels of a step are the weights and five directions:

    gradient    g / sqrt(v)
    fast, slow  m / sqrt(v) at two momenta (Adam; Kingma and Ba 2015)
    factored    m / sqrt(row mean x column mean of v) (Adafactor; Shazeer and Stern 2018)
    orthogonal  the mean of both momenta, orthogonalized (Muon; Jordan et al. 2024)

Directions are used at a root-mean-square of 1 per block times a fixed width factor (muP, Yang et
al. 2022; the spectral one, Bernstein and Newhouse 2024), so that what is left to learn is of order
one and carries over from narrow networks to wide ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from gmn_opt.metanet import BlockedGraph, BlockLayout
from gmn_opt.optim.constants import layout_constants
from gmn_opt.optim.orthogonalize import orthogonalize

#: Names of the accumulators, in the order of their rows: two first moments and the second one.
MOMENTS = ("fast", "slow", "second")
#: Their decays.
DECAYS = (0.9, 0.98, 0.99)
#: sqrt(v + eps^2): finite second derivatives at exactly zero gradients, unlike sqrt(v) + eps.
EPS = 1e-10
CHANNELS = ("weight", "gradient", "fast", "slow", "factored", "orthogonal")
DIRECTIONS = CHANNELS[1:]
_PAIRS = [(i, j) for i in range(len(CHANNELS)) for j in range(i)]
#: Scalars per block made of its values.
BLOCK_SCALARS = len(_PAIRS) + 4


@dataclass(frozen=True)
class Reading:
    """What the rule reads at one step.

    channels: ``[..., len(CHANNELS), P]``, block after block, unscaled; inverse_rms: ``[...,
    blocks, len(CHANNELS)]``; scalars: ``[..., blocks, BLOCK_SCALARS]``.
    """

    channels: Tensor
    inverse_rms: Tensor
    scalars: Tensor


@dataclass(frozen=True)
class DirectionConstants:
    """What the directions of a layout need of it.

    factors: width factors, ``[blocks, len(DIRECTIONS)]``; adam_factors: those of the Adam-like
    directions; root_fan_in: ``[blocks]``; pairs: where the pairs of channels stand in a flattened
    Gram matrix; rates: one minus each decay, ``[len(MOMENTS), 1]``.
    """

    factors: Tensor
    adam_factors: list[float]
    root_fan_in: Tensor
    pairs: Tensor
    rates: Tensor


def _make_constants(layout: BlockedGraph, like: Tensor) -> DirectionConstants:
    rows = []
    for block in layout.blocks:
        adam, orthogonal = width_factors(block)
        rows.append([adam] * (len(DIRECTIONS) - 1) + [orthogonal])
    fan_in = like.new_tensor([float(b.fan_in) for b in layout.blocks])
    pairs = torch.tensor([i * len(CHANNELS) + j for i, j in _PAIRS], device=like.device)
    rates = like.new_tensor([1 - d for d in DECAYS]).unsqueeze(-1)
    return DirectionConstants(
        like.new_tensor(rows), [row[0] for row in rows], fan_in.sqrt(), pairs, rates
    )


def direction_constants(layout: BlockedGraph, like: Tensor) -> DirectionConstants:
    """The constants of ``layout`` in the dtype and on the device of ``like``, made once."""
    return layout_constants(layout, like, _make_constants)


def update_moments(moments: Tensor, grad: Tensor, rates: Tensor) -> Tensor:
    """``moments`` [..., len(MOMENTS), P] after one more gradient [..., P]."""
    seen = torch.stack([grad, grad, grad.square()], -2)
    return torch.lerp(moments, seen, rates)


def width_factors(layout: BlockLayout) -> tuple[float, float]:
    """Factors of the Adam-like and of the orthogonalized direction of a block, both of RMS 1.

    Adam-like: 4/fan-in, because the entries of such an update are aligned and their effects on a
    neuron add up. Orthogonalized: the matrix of spectral norm sqrt(fan-out/fan-in). A table of
    embeddings has fan-in 1: one row is read at a time.
    """
    m, n = layout.dst.size, layout.fan_in
    if layout.block.kind == "embedding":
        n = 1
    adam = 4.0 / max(n, 50)
    return adam, adam if min(m, n) == 1 else sqrt(m / n) / sqrt(max(m, n))


def read(layout: BlockedGraph, theta: Tensor, grad: Tensor, moments: Tensor, step: int) -> Reading:
    """Channels and scalars from flat ``theta``, ``grad`` [..., P] and ``moments`` [..., M, P].

    ``moments`` have seen ``step`` gradients (at least 1), ``grad`` being the latest.
    """
    constants = direction_constants(layout, theta)
    fast, slow, second = moments.unbind(-2)
    c_fast, c_slow, c_second = (1 / (1 - d**step) for d in DECAYS)
    second = second * c_second
    scale = (second + EPS**2).rsqrt()
    mean = torch.add(fast, slow, alpha=c_slow / c_fast)

    factored, orthogonal = [], []
    for block, f, m, v in zip(
        layout.blocks,
        layout.blocks_of_flat(fast),
        layout.blocks_of_flat(mean),
        layout.blocks_of_flat(second),
        strict=True,
    ):
        rows, columns = v.mean(-1, keepdim=True), v.mean(-2, keepdim=True)
        overall = rows.mean(-2, keepdim=True)
        rows = ((overall + EPS**2) / (rows + EPS**2)).sqrt()
        factored.append((f * rows * (columns + EPS**2).rsqrt()).flatten(-2))
        if block.block.kind == "embedding":
            made = m * (m.square().mean(-2, keepdim=True) + EPS**2).rsqrt()
        else:
            made = orthogonalize(m)
        orthogonal.append(made.flatten(-2))
    flat = torch.stack(
        [
            theta,
            grad * scale,
            fast * scale,
            slow * scale,
            torch.cat(factored, -1),
            torch.cat(orthogonal, -1),
        ],
        -2,
    )

    grams = [part @ part.mT / part.shape[-1] for part in flat.split(layout.edge_counts, -1)]
    gram = torch.stack(grams, -3)
    rms = (gram.diagonal(dim1=-2, dim2=-1) + EPS**2).sqrt()
    cosine = gram / (rms.unsqueeze(-1) * rms.unsqueeze(-2))
    pairs = cosine.flatten(-2)[..., constants.pairs]
    n, f, s = rms[..., 1:4].unbind(-1)  # the bias corrections scale no direction, but these
    known = torch.stack([rms[..., 0] * constants.root_fan_in, n, f * c_fast, s * c_slow], -1)
    scalars = torch.cat([pairs, torch.asinh(0.5 * (known + 1e-6).log())], -1)
    return Reading(flat, 1 / rms, scalars)
