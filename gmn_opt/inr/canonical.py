"""One representative for all the SIRENs that differ only by symmetries of the sine.

For a hidden neuron ``sin(ω(wx + b))``, ``sin(-z) = -sin(z)`` lets the signs of w, b and the
neuron's outgoing weights flip together, and ``sin(z + π) = -sin(z)`` lets b move by π/ω while the
outgoing weights flip. With ω = 30, initial phases ωb run over several turns, so that the same
function has thousands of equally likely parameters per neuron. `canonical` moves every phase into
[0, π/2], which is possible in one way only (but for the ends of the interval). The function stays
the same; permutations of neurons are left to the metanet. ScaleGMN (Kalogeropoulos et al. 2024,
arXiv 2406.10685) treats the sign flips by equivariance, and moves biases by whole turns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gmn_opt.inr.base import Params
from gmn_opt.inr.siren import SirenConfig


def canonical(params: Mapping[str, Tensor], config: SirenConfig) -> Params:
    """SIRENs of the same functions, with all hidden phases in [0, π/2].

    Args:
        params: ``{name: [..., *shape]}`` of SIRENs.
        config: Their config.

    Returns:
        New tensors of the same shapes. Differentiable almost everywhere.
    """
    out = dict(params)
    half_turn = math.pi / config.omega
    for i in range(len(config.widths)):
        weight, bias = out[f"layers.{i}.weight"], out[f"layers.{i}.bias"]
        turns = torch.round(bias / half_turn)
        bias = bias - turns * half_turn  # phase in [-π/2, π/2]
        parity = 1 - 2 * turns.remainder(2)
        sign = torch.where(bias < 0, -1.0, 1.0).to(bias)
        out[f"layers.{i}.weight"] = weight * sign.unsqueeze(-1)
        out[f"layers.{i}.bias"] = bias * sign
        after = f"layers.{i + 1}.weight"
        out[after] = out[after] * (sign * parity).unsqueeze(-2)
    return out
