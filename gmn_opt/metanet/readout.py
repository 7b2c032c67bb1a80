"""Readouts: numbers about a whole network from the final states of a metanet.

Lim et al. 2023 (arXiv 2312.04501, section 2 and appendix C) pool node and edge features into the
graph state for tasks such as accuracy prediction. Here edges have been pooled into blocks and nodes
in every round, so nodes, blocks and the graph's state are what is read. Since no pool runs over
anything that depends on the architecture (groups are averaged per role, blocks over all), one
readout serves networks of every architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gmn_opt.metanet.batching import states_of_many
from gmn_opt.metanet.layers.states import States
from gmn_opt.metanet.layout import blocked
from gmn_opt.metanet.model import GraphMetanet

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph

#: Roles of node groups that are pooled one by one. Bias nodes know nothing but their edges.
ROLES = ("input", "hidden", "output")
_EPSILON = 1e-12


class GraphReadout(nn.Module):
    """A metanet with outputs per network.

    ``{name: [..., *shape, in_features]}`` to ``[..., outputs]``. Pooled are the graph's state, the
    mean over blocks, and per role (input, hidden, output) the mean and the root of the mean square
    over nodes: within a group, then over the groups of the role, zero where there are none. All of
    it is invariant to the symmetries of the graph. Numbers to predict, logits of classes, and
    embeddings differ in ``outputs`` alone.

    Args:
        metanet: Its edge readout is not used; make it with ``out_features=0``.
        outputs: Numbers per network.
        hidden: Width of the embedding; by default that of the metanet.
        standardize: Subtract the mean over the networks of a batch from what was pooled and divide
            by the standard deviation (``nn.BatchNorm1d``; running statistics in evaluation mode).
            Averages over hundreds of weights differ little between networks, compared with what
            they have in common, so predictors learn faster with it. In training mode, outputs then
            depend on the other networks of the batch; the running statistics are of use after a
            few hundred steps.
    """

    def __init__(
        self,
        metanet: GraphMetanet,
        outputs: int,
        hidden: int | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        c = metanet.graph_state.numel()
        self.width = c if hidden is None else hidden
        if outputs < 1 or self.width < 1 or metanet.block_inputs:
            raise ValueError(
                "GraphReadout needs at least one output and hidden channel and a metanet without "
                f"block inputs, received outputs={outputs}, hidden={hidden}, a metanet with "
                f"block_inputs={metanet.block_inputs}."
            )
        self.metanet, self.outputs = metanet, outputs
        self.node_norm, self.block_norm = nn.LayerNorm(c), nn.LayerNorm(c)
        self.graph_norm = nn.LayerNorm(c)
        self.nodes, self.blocks = nn.Linear(c, c), nn.Linear(c, c)
        pooled = (2 + 2 * len(ROLES)) * c
        self.standardize = nn.BatchNorm1d(pooled) if standardize else None
        self.embedding = nn.Linear(pooled, self.width)
        self.head = nn.Linear(self.width, outputs)

    def pool(self, graph: ParameterGraph, states: States) -> Tensor:
        """What is read of the final states of networks that share ``graph``: ``[..., 8 c]``."""
        nodes = silu(self.nodes(self.node_norm(states.nodes)))
        blocks = silu(self.blocks(self.block_norm(states.blocks))).mean(-2)
        groups = nodes.split(blocked(graph).group_sizes, -2)
        parts = [self.graph_norm(states.graph), blocks]
        for role in ROLES:
            chosen = [x for g, x in zip(graph.groups, groups, strict=True) if g.role == role]
            if not chosen:
                parts += [torch.zeros_like(blocks)] * 2
                continue
            parts.append(torch.stack([x.mean(-2) for x in chosen]).mean(0))
            squares = torch.stack([x.square().mean(-2) for x in chosen]).mean(0)
            parts.append((squares + _EPSILON).sqrt())
        return torch.cat(parts, -1)

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """From :meth:`pool` to the embedding, ``[..., hidden]``."""
        if self.standardize is not None:
            pooled = self.standardize(pooled.flatten(0, -2)).view_as(pooled)
        return silu(self.embedding(pooled))

    def embed(
        self,
        graph: ParameterGraph,
        tensors: Mapping[str, Tensor],
        node_inputs: Tensor | None = None,
    ) -> Tensor:
        """The embedding that the output layer reads, ``[..., hidden]``; see :meth:`forward`."""
        states = self.metanet.states_from(graph, tensors, node_inputs, keep_edges=False)
        pooled = self.pool(graph, states)
        return self.embed_pooled(pooled.unsqueeze(0)).squeeze(0)

    def forward(
        self,
        graph: ParameterGraph,
        tensors: Mapping[str, Tensor],
        node_inputs: Tensor | None = None,
    ) -> Tensor:
        """``{name: [..., *shape, in_features]}`` to ``[..., outputs]``.

        Leading dimensions batch networks that share ``graph``. ``node_inputs`` [..., N, features]
        is for a metanet that was made with them.

        Raises:
            ValueError: When names, shapes, dtype or device do not match the graph and metanet, or
                the graph has no parameters.
        """
        out: Tensor = self.head(self.embed(graph, tensors, node_inputs))
        return out

    def many(
        self,
        networks: Sequence[tuple[ParameterGraph, Mapping[str, Tensor]]],
        node_inputs: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Outputs for networks of any architectures, ``[networks, ..., outputs]``.

        ``node_inputs`` is one tensor per network, for a metanet that was made with them.
        See :func:`gmn_opt.metanet.batching.states_of_many` for how they are run.
        """
        states = states_of_many(self.metanet, networks, node_inputs, keep_edges=False)
        pairs = zip(networks, states, strict=True)
        pooled = torch.stack([self.pool(graph, s) for (graph, _), s in pairs])
        out: Tensor = self.head(self.embed_pooled(pooled))
        return out
