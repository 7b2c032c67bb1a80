"""The rule's reader without messages: it sees blocks, neither neurons nor edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gmn_opt.metanet.features import BLOCK_FEATURES, structural
from gmn_opt.metanet.layers.states import TwoLayer

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph


class BlockReader(nn.Module):
    """A network over the set of blocks (Zaheer et al. 2017, arXiv 1703.06114).

    What is left of :class:`~gmn_opt.metanet.GraphMetanet` without nodes, edges and messages:
    blocks know what they are and their statistics, and one another only by a mean over all.
    """

    def __init__(self, block_inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        c = hidden
        self.encoder = nn.Linear(BLOCK_FEATURES + block_inputs, c)
        self.graph_state = nn.Parameter(torch.zeros(c))
        self.norms = nn.ModuleList(nn.LayerNorm(c) for _ in range(2 * layers))
        self.block_mlps = nn.ModuleList(TwoLayer(2 * c, c, c) for _ in range(layers))
        self.graph_mlps = nn.ModuleList(TwoLayer(2 * c, c, c) for _ in range(layers))

    def forward(self, graph: ParameterGraph, block_inputs: Tensor) -> Tensor:
        """States ``[..., blocks, hidden]`` from ``block_inputs`` [..., blocks, block_inputs]."""
        known = structural(graph, block_inputs)[1]
        lead = block_inputs.shape[:-2]
        blocks = self.encoder(torch.cat([known.expand(*lead, -1, -1), block_inputs], -1))
        whole = self.graph_state.expand(*lead, 1, -1)
        for i, (block_mlp, graph_mlp) in enumerate(
            zip(self.block_mlps, self.graph_mlps, strict=True)
        ):
            seen, u = self.norms[2 * i](blocks), self.norms[2 * i + 1](whole)
            blocks = blocks + block_mlp(seen, u)
            whole = whole + graph_mlp(torch.cat([u, seen.mean(-2, keepdim=True)], -1))
        return blocks
