"""The classifiers of INRs that are compared, all ``{name: [B, *shape]}`` to ``[B, classes]``.

They read weights alone, but for those in `LISTENING`, which also know what the network says at
places of the image (function access).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from experiments.inr.runs import Normalizer
from gmn_opt import GraphMetanet, ParameterGraph
from gmn_opt.inr import Siren
from gmn_opt.inr.probing import SirenProbes
from gmn_opt.inr.rendering import coordinates
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
        node_inputs: Numbers that are known of every node beside its role.
        beside: Numbers that the head reads beside the embedding.
        sizes: Whether the metanet knows how many neurons there are.
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
        node_inputs: int = 0,
        beside: int = 0,
        sizes: bool = True,
    ) -> None:
        super().__init__()
        self.graph, self.frequencies = graph, frequencies
        features = 1 + 2 * frequencies
        self.metanet = GraphMetanet(
            features, 0, hidden, edge_hidden, layers, node_inputs=node_inputs, sizes=sizes
        )
        with torch.no_grad():
            self.metanet.edge_encoder.weight.mul_(gain)
        self.nodes = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU())
        size = hidden * (1 + len(blocked(graph).blocks) + len(graph.groups))
        self.head = Head([size + beside, 128, outputs])

    def embed(self, tensors: Mapping[str, Tensor], node_inputs: Tensor | None = None) -> Tensor:
        """``[B, embedding]``; ``node_inputs`` is ``[B, nodes, node_inputs]``."""
        layout = blocked(self.graph)
        layout.check(tensors)
        flat = layout.flatten(tensors)
        turns = [f(2.0**k * flat) for k in range(self.frequencies) for f in (torch.sin, torch.cos)]
        edges = torch.stack([flat, *turns], -2)
        states = self.metanet.states(self.graph, edges, node_inputs=node_inputs)
        groups = self.nodes(states.nodes).split(layout.group_sizes, -2)
        means = [g.mean(-2) for g in groups]
        return torch.cat([states.graph, states.blocks.flatten(-2), *means], -1)

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Classify; raises ValueError for tensors of other names or shapes."""
        out: Tensor = self.head(self.embed(tensors))
        return out


class ProbedMetanet(EmbeddingMetanet):
    """The same, whose nodes also begin with what their neurons say at learned places of the image.

    How the outputs there depend on each of them stands beside it; the head reads what the whole
    network says there.

    Args:
        graph: Of the networks.
        outputs: Classes.
        normalizer: By which the networks were normalized: they are to be what they were.
        places: How many, a grid at the start.
        sizes: Whether the metanet knows how many neurons there are.
    """

    def __init__(
        self,
        graph: ParameterGraph,
        outputs: int,
        normalizer: Normalizer,
        places: int = 144,
        sizes: bool = True,
    ) -> None:
        probes = SirenProbes(normalizer.config, places)
        said = places * normalizer.config.outputs
        super().__init__(graph, outputs, node_inputs=probes.features, beside=said, sizes=sizes)
        self.probes, self.normalizer, self.places = probes, normalizer, places
        roles = [group.role for group in graph.groups]
        self.last = roles.index("output")

    def use(self, normalizer: Normalizer) -> None:
        """Read networks that were normalized by this one from now on."""
        self.normalizer = normalizer

    def embed(self, tensors: Mapping[str, Tensor], node_inputs: Tensor | None = None) -> Tensor:
        """See the class; raises ValueError for node inputs of the caller's own."""
        if node_inputs is not None:
            raise ValueError("The nodes of a ProbedMetanet begin with its probes' features alone.")
        normalizer = self.normalizer
        networks = normalizer.back(tensors)
        heard = self.probes(networks, normalizer.config, self.graph, normalizer.gains)
        outputs = heard.split(blocked(self.graph).group_sizes, -2)[self.last]
        said = outputs[..., : self.places].flatten(-2)
        return torch.cat([super().embed(tensors, heard), said], -1)


class Drawn(nn.Module):
    """A small CNN on the image that a network draws: what all that read weights can hope for.

    Args:
        outputs: Classes.
        normalizer: By which the networks were normalized.
        side: Pixels of the image.
    """

    points: Tensor

    def __init__(self, outputs: int, normalizer: Normalizer, side: int = 28) -> None:
        super().__init__()
        self.side = side
        self.use(normalizer)
        self.register_buffer("points", coordinates(side), persistent=False)
        layers: list[nn.Module] = []
        width = normalizer.config.outputs
        for made in (16, 32):
            layers += [
                nn.Conv2d(width, made, 3, padding=1), nn.BatchNorm2d(made), nn.SiLU(),
                nn.MaxPool2d(2),
            ]  # fmt: skip
            width = made
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.head = Head([width * (side // 4) ** 2, 128, outputs])

    def use(self, normalizer: Normalizer) -> None:
        """Draw networks that were normalized by this one from now on."""
        self.normalizer = normalizer
        self.siren = (Siren(normalizer.config),)  # in a tuple: its parameters are not ours

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Classify."""
        said = self.siren[0].batched(self.normalizer.back(tensors), self.points)
        images = said.unflatten(1, (self.side, self.side)).movedim(-1, 1)
        out: Tensor = self.head(self.convolutions(images))
        return out


Factory = Callable[[ParameterGraph, int, Normalizer], nn.Module]
CLASSIFIERS: dict[str, Factory] = {
    "gmn": lambda graph, classes, _: EmbeddingMetanet(graph, classes),
    "flat_mlp": lambda graph, classes, _: FlatMLP(graph.shapes, classes),
    "statnn": lambda graph, classes, _: StatNN(graph.shapes, classes),
    "deep_sets": lambda graph, classes, _: ParameterDeepSets(graph.shapes, classes),
    "np_nfn": lambda graph, classes, _: NPNFN(graph.shapes, classes),
    "dmc": lambda graph, classes, _: DMC(graph.shapes, classes),
    "gmn_probes": ProbedMetanet,
    "drawn": lambda _, classes, normalizer: Drawn(classes, normalizer),
}
#: Those with function access.
LISTENING = ("gmn_probes", "drawn")
