"""What every neuron of a SIREN says at a few learned places of the image, and what it matters.

The values are the probe features of Kofinas et al. 2024 (arXiv 2403.12143, section 3): the
metanet's nodes begin with what the neuron says at the probes, after the sine, beside their role. A
few rounds of message passing cannot work out what a SIREN shows; a forward pass at a few places
tells them.

Deviation: nodes also know how the network's outputs there change with them, by a backward pass. A
gradient of a weight is the product of the two, so that an editor that knows both can say in one
product of its ends' states what to change where. Permutations of neurons permute all features. One
set of places serves networks of all widths and depths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph
from gmn_opt.inr.base import InrConfig, batched_linear
from gmn_opt.inr.siren import SirenConfig
from gmn_opt.metanet import blocked


class SirenProbes(nn.Module):
    """``{name: [..., *shape]}`` of SIRENs to node features ``[..., nodes, features]``.

    Features are the values at every place, then how every output there changes with the neuron's
    sum before the sine: the square root of large ones, as they have no bound. Nodes that are no
    neurons (biases) get zeros; inputs have their coordinates for values, and no sensitivities.

    Args:
        inr: Config of the SIRENs; any widths.
        count: Places; at the start a grid of as many as fit, the others at random.

    Raises ValueError for networks that are no SIRENs.
    """

    def __init__(self, inr: InrConfig, count: int) -> None:
        super().__init__()
        if not isinstance(inr, SirenConfig):
            raise ValueError(
                f"Only the neurons of SIRENs can be probed, received {inr}. Use an editor with "
                "probes=0, which reads weights alone."
            )
        side = math.floor(count ** (1 / inr.inputs) + 1e-9)
        axis = torch.linspace(-1, 1, side + 2)[1:-1]
        grid = torch.stack(torch.meshgrid([axis] * inr.inputs, indexing="ij"), -1).flatten(0, -2)
        others = torch.rand(count - len(grid), inr.inputs) * 2 - 1
        self.places = nn.Parameter(torch.cat([grid, others]))
        self.features = features_per_node(inr, count)

    def forward(
        self,
        params: Mapping[str, Tensor],
        config: SirenConfig,
        graph: ParameterGraph,
        gains: Sequence[float] | None = None,
    ) -> Tensor:
        """Features of the nodes of ``graph``, that of SIRENs of this config.

        ``gains``, one per layer, multiply its slopes, which fall with the width of a layer.
        """
        lead = params["layers.0.weight"].shape[:-2]
        flat = {n: p.reshape(-1, *p.shape[len(lead) :]) for n, p in params.items()}
        values, slopes = values_and_slopes(flat, self.places, config.omega)
        layout = blocked(graph)
        like = values[0]
        parts = [like.new_zeros(len(like), n, self.features) for n in layout.group_sizes]
        for block in layout.blocks:
            layer, _, leaf = block.block.tensor.removeprefix("layers.").partition(".")
            if leaf != "weight":
                continue
            i = int(layer)
            slope = slopes[i] if gains is None else gains[i] * slopes[i]
            known = torch.cat([values[i], _tamed(slope).flatten(1, 2)], 1)
            parts[block.dst.group] = known.mT
            if i == 0:
                nothing = self.places.new_zeros(config.inputs, self.features - len(self.places))
                at_inputs = torch.cat([self.places.mT, nothing], 1)
                parts[block.src.group] = at_inputs.expand(len(like), -1, -1)
        return torch.cat(parts, 1).reshape(*lead, -1, self.features)


def _tamed(slopes: Tensor) -> Tensor:
    """Themselves where small, the root of large ones; asinh would take a tenth of a step."""
    return slopes * (1 + slopes.abs()).rsqrt()


def features_per_node(inr: InrConfig, count: int) -> int:
    """Features per node with so many places."""
    return count * (1 + inr.outputs)


def values_and_slopes(
    params: Mapping[str, Tensor], places: Tensor, omega: float
) -> tuple[list[Tensor], list[Tensor]]:
    """What the neurons of N SIRENs say, and how the outputs change with their sums.

    Args:
        params: ``{name: [N, *shape]}`` of SIRENs of one config.
        places: ``[P, inputs]``.
        omega: Their frequency factor.

    Returns:
        By layer, values ``[N, P, width]`` (sines; the outputs in the end) and slopes
        ``[N, outputs, P, width]``: derivatives of the outputs by ``omega * (W x + b)``, in the last
        layer by ``W x + b``.
    """
    last = len(params) // 2 - 1
    x, values, cosines = places, [], []
    for i in range(last):
        sums = batched_linear(
            x, omega * params[f"layers.{i}.weight"], omega * params[f"layers.{i}.bias"]
        )
        x = sums.sin()
        values.append(x)
        cosines.append(sums.cos())
    weight = params[f"layers.{last}.weight"]
    values.append(batched_linear(x, weight, params[f"layers.{last}.bias"]))
    count, outputs = weight.shape[:2]
    slope = torch.eye(outputs, dtype=weight.dtype, device=weight.device)
    slope = slope[None, :, None].expand(count, -1, len(places), -1)
    slopes = [slope]
    for i in reversed(range(last)):
        # W of the layer behind; all but the last are multiplied by omega there
        factor = 1.0 if i + 1 == last else omega
        slope = (slope @ (factor * params[f"layers.{i + 1}.weight"]).unsqueeze(1)) * cosines[
            i
        ].unsqueeze(1)
        slopes.insert(0, slope)
    return values, slopes
