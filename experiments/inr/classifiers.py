"""The classifiers of INRs that are compared, all ``{name: [B, *shape]}`` to ``[B, classes]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from gmn_opt import GraphMetanet, ParameterGraph
from gmn_opt.metanet import blocked
from gmn_opt.metanet.baselines import DMC, NPNFN, FlatMLP, ParameterDeepSets, StatNN
from gmn_opt.metanet.baselines.common import Head


class EmbeddingMetanet(nn.Module):
    """A graph metanet whose final states, averaged, are the embedding that an MLP reads.

    Nodes are averaged within their group, behind one more layer; block states and the graph's
    stand beside them.

    Args:
        graph: Of the networks.
        outputs: Classes.
        hidden, edge_hidden, layers: Sizes of the metanet.
        frequencies: Sines and cosines of each weight that the metanet reads beside it.
        gain: Of the metanet's first layer at initialization. At 1, SiLU is nearly linear on what
            comes out, and the mean of a function that is nearly linear says little.
    """

    def __init__(
        self,
        graph: ParameterGraph,
        outputs: int,
        hidden: int = 48,
        edge_hidden: int = 12,
        layers: int = 2,
        frequencies: int = 2,
        gain: float = 4.0,
    ) -> None:
        super().__init__()
        self.graph, self.frequencies = graph, frequencies
        features = 1 + 2 * frequencies
        self.metanet = GraphMetanet(features, 0, hidden, edge_hidden, layers)
        with torch.no_grad():
            self.metanet.edge_encoder.weight.mul_(gain)
        self.nodes = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU())
        size = hidden * (1 + len(blocked(graph).blocks) + len(graph.groups))
        self.head = Head([size, 128, outputs])

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """``[B, embedding]``."""
        layout = blocked(self.graph)
        layout.check(tensors)
        flat = layout.flatten(tensors)
        turns = [f(2.0**k * flat) for k in range(self.frequencies) for f in (torch.sin, torch.cos)]
        states = self.metanet.states(self.graph, torch.stack([flat, *turns], -2))
        groups = self.nodes(states.nodes).split(layout.group_sizes, -2)
        means = [g.mean(-2) for g in groups]
        return torch.cat([states.graph, states.blocks.flatten(-2), *means], -1)

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Classify; raises ValueError for tensors of other names or shapes."""
        out: Tensor = self.head(self.embed(tensors))
        return out


CLASSIFIERS: dict[str, Callable[[ParameterGraph, int], nn.Module]] = {
    "gmn": EmbeddingMetanet,
    "flat_mlp": lambda graph, classes: FlatMLP(graph.shapes, classes),
    "statnn": lambda graph, classes: StatNN(graph.shapes, classes),
    "deep_sets": lambda graph, classes: ParameterDeepSets(graph.shapes, classes),
    "np_nfn": lambda graph, classes: NPNFN(graph.shapes, classes),
    "dmc": lambda graph, classes: DMC(graph.shapes, classes),
}
