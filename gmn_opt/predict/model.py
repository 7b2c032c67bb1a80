"""The network of a predictor: statistics, a graph metanet, a readout, all normalized for good.

Every normalization is a pair of buffers that is set once from the training networks, before the
first step, and is the same in training and evaluation. Running statistics would not do: pooled
states of a metanet differ so little between networks, beside what they have in common, that a
small drift of the averages swamps the prediction.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gmn_opt.metanet import GraphMetanet, States, blocked
from gmn_opt.predict.features import (
    BLOCK_STATISTICS,
    GRAPH_STATISTICS,
    NODE_STATISTICS,
    block_statistics,
    edges_of,
    graph_statistics,
    node_statistics,
)

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph
    from gmn_opt.predict.networks import Stack

_ROLES = ("input", "hidden", "output")
_LEAST, _MOST = 1e-4, 6.0


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a predictor's network.

    Attributes:
        outputs: Numbers per network.
        hidden: Width of node, block and graph states.
        edge_hidden: Width of edge states.
        layers: Rounds of message passing.
        embedding: Width of what the last layer reads.
        dropout: On the embedding and what it is made of, in training.
    """

    outputs: int = 1
    hidden: int = 32
    edge_hidden: int = 8
    layers: int = 2
    embedding: int = 64
    dropout: float = 0.3

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


class Standardize(nn.Module):
    """``(x - mean) / std`` along the last axis, softly bounded, with statistics set once."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def set_from(self, x: Tensor, least: float = _LEAST) -> None:
        """Take the statistics of ``x`` [..., features]; what does not vary is left as it is."""
        flat = x.reshape(-1, x.shape[-1])
        std = flat.std(0, correction=0)
        self.mean.copy_(flat.mean(0))
        self.std.copy_(torch.where(std > least, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        """Standardize; beyond six deviations growth is logarithmic, so no outlier runs away."""
        z = (x - self.mean) / self.std
        return _MOST * torch.asinh(z / _MOST)


@dataclass(frozen=True)
class Features:
    """What the metanet is given of networks that share a graph.

    edges ``[n, 1, P]``, nodes ``[n, N, .]``, blocks ``[n, blocks, .]``, whole ``[n, .]``.
    """

    graph: ParameterGraph
    edges: Tensor
    nodes: Tensor
    blocks: Tensor
    whole: Tensor

    def __getitem__(self, chosen: Tensor) -> Features:
        """Some of the networks."""
        return Features(
            self.graph, self.edges[chosen], self.nodes[chosen], self.blocks[chosen],
            self.whole[chosen],
        )  # fmt: skip

    def to(self, device: torch.device, dtype: torch.dtype) -> Features:
        """The same there, in this dtype."""
        parts = (self.edges, self.nodes, self.blocks, self.whole)
        return Features(self.graph, *(t.to(device, dtype) for t in parts))


def features_of(stack: Stack, dtype: torch.dtype = torch.float32) -> Features:
    """All features of networks that share a graph."""
    layout = blocked(stack.graph)
    blocks = layout.split({n: t.to(dtype) for n, t in stack.tensors.items()})
    statistics = block_statistics(stack.graph, blocks)
    return Features(
        stack.graph,
        edges_of(stack.graph, blocks),
        node_statistics(stack.graph, blocks),
        statistics,
        graph_statistics(stack.graph, statistics),
    )


class PredictorModel(nn.Module):
    """Features of networks that share a graph to ``[n, outputs]``.

    Args:
        config: Sizes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        c = config.hidden
        self.metanet = GraphMetanet(
            1, 0, c, config.edge_hidden, config.layers,
            block_inputs=BLOCK_STATISTICS, node_inputs=NODE_STATISTICS,
        )  # fmt: skip
        self.node_scale = Standardize(NODE_STATISTICS)
        self.block_scale = Standardize(BLOCK_STATISTICS)
        self.whole_scale = Standardize(GRAPH_STATISTICS)
        self.edge_scale = Standardize(1)
        self.node_norm, self.block_norm = nn.LayerNorm(c), nn.LayerNorm(c)
        self.graph_norm = nn.LayerNorm(c)
        self.nodes, self.blocks = nn.Linear(c, c), nn.Linear(c, c)
        pooled = (3 + 2 * len(_ROLES)) * c
        self.pooled_scale = Standardize(pooled)
        self.dropout = nn.Dropout(config.dropout)
        self.first = nn.Linear(pooled + GRAPH_STATISTICS, config.embedding)
        self.second = nn.Linear(config.embedding, config.embedding)
        self.head = nn.Linear(config.embedding, config.outputs)

    def pool(self, f: Features) -> Tensor:
        """Final states, pooled over what the architecture decides: ``[n, pooled]``."""
        edges = self.edge_scale(f.edges.mT).mT
        states = self.metanet.states(
            f.graph, edges.contiguous(), self.block_scale(f.blocks),
            node_inputs=self.node_scale(f.nodes), keep_edges=False,
        )  # fmt: skip
        return self._read(f.graph, states)

    def _read(self, graph: ParameterGraph, states: States) -> Tensor:
        nodes = silu(self.nodes(self.node_norm(states.nodes)))
        blocks = silu(self.blocks(self.block_norm(states.blocks)))
        groups = nodes.split(blocked(graph).group_sizes, -2)
        spread = (blocks.var(-2, correction=0) + 1e-8).sqrt()
        parts = [self.graph_norm(states.graph), blocks.mean(-2), spread]
        for role in _ROLES:
            chosen = [x for g, x in zip(graph.groups, groups, strict=True) if g.role == role]
            if not chosen:
                parts += [torch.zeros_like(parts[1])] * 2
                continue
            mean = torch.stack([x.mean(-2) for x in chosen])
            squares = torch.stack([x.square().mean(-2) for x in chosen])
            parts += [mean.mean(0), (squares.mean(0) + 1e-8).sqrt()]
        return torch.cat(parts, -1)

    @torch.no_grad()
    def set_statistics(self, features: list[Features]) -> None:
        """Set every normalization from training networks; once, before the first step."""
        was = self.training
        self.eval()
        self.node_scale.set_from(_rows([f.nodes for f in features]))
        self.block_scale.set_from(_rows([f.blocks for f in features]))
        self.whole_scale.set_from(_rows([f.whole for f in features]))
        self.edge_scale.set_from(_rows([f.edges.mT for f in features]))
        self.pooled_scale.set_from(torch.cat([self.pool(f) for f in features]))
        self.train(was)

    def represent(self, f: Features) -> Tensor:
        """``[n, .]``: pooled states and statistics, standardized."""
        return torch.cat([self.pooled_scale(self.pool(f)), self.whole_scale(f.whole)], -1)

    def embed(self, z: Tensor) -> Tensor:
        """From :meth:`represent` to what the last layer reads, ``[n, embedding]``."""
        x = silu(self.first(self.dropout(z)))
        out: Tensor = x + silu(self.second(self.dropout(x)))
        return out

    def answer(self, z: Tensor) -> Tensor:
        """From :meth:`represent` to ``[n, outputs]``."""
        out: Tensor = self.head(self.embed(z))
        return out

    def read(self, stack: Stack) -> Tensor:
        """What the last layers are given of networks that share a graph, ``[n, .]``."""
        return self.represent(self.prepare(stack))

    def prepare(self, stack: Stack) -> Features:
        """What :meth:`represent` takes, in this model's dtype and on its device."""
        p = self.head.weight
        return features_of(stack, p.dtype).to(p.device, p.dtype)


def _rows(parts: list[Tensor], most: int = 1_000_000) -> Tensor:
    """All rows ``[rows, features]`` of ``[n, ..., features]`` each; at most about ``most``."""
    flat = [p.reshape(-1, p.shape[-1]) for p in parts]
    step = max(1, sum(len(p) for p in flat) // most)
    return torch.cat([p[::step] for p in flat])
