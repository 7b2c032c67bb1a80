"""What every neuron of a SIREN says at a few learned places of the image.

These are the probe features of Kofinas et al. 2024 (arXiv 2403.12143, section 3) at their simplest:
the metanet's nodes begin with the neuron's values at the probes, after the sine, beside their role.
A few rounds of message passing cannot work out what a SIREN shows; a forward pass at a few places
tells them. Permutations of neurons permute the features. `gmn_opt.metanet.Probes` does so for any
network, in front of the activation; here one set of places serves networks of all widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph
from gmn_opt.inr.base import InrConfig
from gmn_opt.inr.siren import SirenConfig, signals
from gmn_opt.metanet import blocked


class SirenProbes(nn.Module):
    """``{name: [..., *shape]}`` of SIRENs to node features ``[..., nodes, count]``.

    Args:
        inputs: Coordinates of a place.
        count: Places; at the start a grid of as many as fit, the others at random.

    Nodes that are no neurons (biases) get zeros, input nodes the coordinates.
    """

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        side = math.floor(count ** (1 / inputs) + 1e-9)
        axis = torch.linspace(-1, 1, side + 2)[1:-1]
        grid = torch.stack(torch.meshgrid([axis] * inputs, indexing="ij"), -1).flatten(0, -2)
        others = torch.rand(count - len(grid), inputs) * 2 - 1
        self.places = nn.Parameter(torch.cat([grid, others]))

    def forward(
        self, params: Mapping[str, Tensor], config: SirenConfig, graph: ParameterGraph
    ) -> Tensor:
        """Values at the places, by node of the graph."""
        first = params["layers.0.weight"]
        lead = first.shape[:-2]
        flat = {n: p.flatten(0, len(lead) - 1) if lead else p[None] for n, p in params.items()}
        found = signals(flat, self.places, config.omega)
        layout = blocked(graph)
        parts = [first.new_zeros(*lead, n, len(self.places)) for n in layout.group_sizes]
        for block in layout.blocks:
            layer, _, leaf = block.block.tensor.removeprefix("layers.").partition(".")
            if leaf != "weight":
                continue
            parts[block.dst.group] = found[int(layer)].mT.unflatten(0, lead or (1,))
            if layer == "0":
                parts[block.src.group] = self.places.mT.expand(*lead, -1, -1)
        if not lead:
            parts = [p.squeeze(0) if p.dim() > 2 else p for p in parts]
        return torch.cat(parts, -2)


def probes_for(inr: InrConfig, count: int) -> SirenProbes:
    """Probes of networks of this kind; raises ValueError for all but SIRENs."""
    if not isinstance(inr, SirenConfig):
        raise ValueError(
            f"Only the neurons of SIRENs can be probed, received {inr}. Use an editor with "
            "probes=0, which reads weights alone."
        )
    return SirenProbes(inr.inputs, count)
