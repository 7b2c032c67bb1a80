"""The network of a predictor: statistics, a graph metanet, a readout, all normalized for good.

Every normalization is a pair of buffers that is set once from the training networks, before the
first step, and is the same in training and evaluation. Running statistics would not do: pooled
states of a metanet differ so little between networks, beside what they have in common, that a
small drift of the averages swamps the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from gmn_opt.predict.standardize import Standardize
from gmn_opt.predict.through import PathFeatures, PathReader, path_features

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph
    from gmn_opt.predict.networks import Stack

_ROLES = ("input", "hidden", "output")


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
        ends: Numbers of inputs and outputs of the networks whose through maps are read; None for
            no paths at all, which `fit_predictor` takes for those of the training networks.
        covariates: Numbers known of every network beside its weights.
    """

    outputs: int = 1
    hidden: int = 32
    edge_hidden: int = 8
    layers: int = 2
    embedding: int = 64
    dropout: float = 0.3
    ends: Sequence[Sequence[int]] | None = None
    covariates: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


@dataclass(frozen=True)
class Features:
    """What the metanet is given of networks that share a graph.

    edges ``[n, 1, P]``, nodes ``[n, N, .]``, blocks ``[n, blocks, .]``, whole ``[n, .]``, which are
    statistics and then covariates; paths where they are read.
    """

    graph: ParameterGraph
    edges: Tensor
    nodes: Tensor
    blocks: Tensor
    whole: Tensor
    paths: PathFeatures | None = None

    def __getitem__(self, chosen: Tensor) -> Features:
        """Some of the networks."""
        return Features(
            self.graph, self.edges[chosen], self.nodes[chosen], self.blocks[chosen],
            self.whole[chosen], None if self.paths is None else self.paths[chosen],
        )  # fmt: skip

    def to(self, device: torch.device, dtype: torch.dtype) -> Features:
        """The same there, in this dtype."""
        edges, nodes, blocks, whole = (
            t.to(device, dtype) for t in (self.edges, self.nodes, self.blocks, self.whole)
        )
        paths = None if self.paths is None else self.paths.to(device)
        return Features(self.graph, edges, nodes, blocks, whole, paths)


def features_of(stack: Stack, dtype: torch.dtype = torch.float32) -> Features:
    """All features of networks that share a graph."""
    layout = blocked(stack.graph)
    blocks = layout.split({n: t.to(dtype) for n, t in stack.tensors.items()})
    statistics = block_statistics(stack.graph, blocks)
    whole = graph_statistics(stack.graph, statistics)
    if stack.covariates.shape[1]:
        whole = torch.cat([whole, stack.covariates.to(whole)], 1)
    return Features(
        stack.graph,
        edges_of(stack.graph, blocks),
        node_statistics(stack.graph, blocks),
        statistics,
        whole,
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
        whole = GRAPH_STATISTICS + config.covariates
        self.whole_scale = Standardize(whole)
        self.edge_scale = Standardize(1)
        self.node_norm, self.block_norm = nn.LayerNorm(c), nn.LayerNorm(c)
        self.graph_norm = nn.LayerNorm(c)
        self.nodes, self.blocks = nn.Linear(c, c), nn.Linear(c, c)
        pooled = (3 + 2 * len(_ROLES)) * c
        self.pooled_scale = Standardize(pooled)
        self.dropout = nn.Dropout(config.dropout)
        self.paths = None if config.ends is None else PathReader(config.ends)
        read = pooled + whole + (0 if self.paths is None else self.paths.width)
        self.first = nn.Linear(read, config.embedding)
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
        if self.paths is not None:
            self.paths.set_from([f.paths for f in features if f.paths is not None])
        self.pooled_scale.set_from(torch.cat([self.pool(f) for f in features]))
        self.train(was)

    def represent(self, f: Features) -> Tensor:
        """``[n, .]``: pooled states, statistics, covariates and paths, standardized."""
        parts = [self.pooled_scale(self.pool(f)), self.whole_scale(f.whole)]
        if self.paths is not None and f.paths is not None:
            parts.append(self.paths(f.paths))
        return torch.cat(parts, -1)

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
        found = features_of(stack, p.dtype)
        if self.paths is not None:
            found = replace(found, paths=path_features(stack, p.dtype))
        return found.to(p.device, p.dtype)


def _rows(parts: list[Tensor], most: int = 1_000_000) -> Tensor:
    """All rows ``[rows, features]`` of ``[n, ..., features]`` each; at most about ``most``."""
    flat = [p.reshape(-1, p.shape[-1]) for p in parts]
    step = max(1, sum(len(p) for p in flat) // most)
    return torch.cat([p[::step] for p in flat])
