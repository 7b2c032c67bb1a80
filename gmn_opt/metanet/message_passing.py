"""One round of message passing, blocked: no gathers, no concatenation over edges, no scatter.

The update equations are those of a graph network (Battaglia et al. 2018; Lim et al. 2023,
section 2), with one hidden layer per edge that serves edges and both directions of messages. For
an edge from s to d with state e in block b:

    h      = silu(W_e e + W_s x_s + W_d x_d + W_b b + W_k k)
    x_d   += MLP([norm(x_d), mean of h over incoming, mean of h over outgoing, links, u])
    b     += MLP([norm(b), mean of h over the block, u])
    u     += MLP([norm(u), mean of b, mean of x])
    e     += h

A block is dense, so ``Linear([x_s, x_d, e])`` splits into a per-node, a per-node and a per-edge
part that broadcasting adds up. The last linear layer of a message belongs on the nodes, because a
linear map commutes with the mean. Means are taken within a block and then over the blocks that
meet in a group: sums would not carry over to other widths, and one mean over all edges would drown
a bias among a thousand weights. With attention, the mean within a block is weighted by a softmax of
scores of h, head by head (Kofinas et al. 2024 attend as well). Edges are stored channels first,
``[..., f, P]``, so that the long axis is the contiguous one; the nodes of all groups stand in one
tensor ``[..., N, c]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from gmn_opt.metanet.edge_messages import edge_messages, mix, plain
from gmn_opt.metanet.layout import BlockedGraph


@dataclass(frozen=True)
class States:
    """What a metanet knows: per node, per edge, per block and per graph.

    nodes: ``[..., N, c]``, the groups one after the other; edges: ``[..., f, P]``, the blocks one
    after the other; blocks: ``[..., blocks, c]``; graph: ``[..., c]``.

    ``encoder`` [f, g] or [..., blocks, f, g] stands before the first round: edges ``[..., g, P]``
    times it are the states. To write that product down would cost a pass over all edges.
    """

    nodes: Tensor
    edges: Tensor
    blocks: Tensor
    graph: Tensor
    encoder: Tensor | None = None


class TwoLayer(nn.Module):
    """Linear, silu, linear: ``[..., inputs]`` to ``[..., outputs]``."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """Apply both layers to ``x`` and then ``beside``, concatenated.

        ``beside`` [..., 1, b] is the same along the last axis but one, and not repeated for it.
        Between the two there may be inputs that are missing, and count as zeros.
        """
        if beside is None:
            return self.second(silu(self.first(x)))
        weight = self.first.weight
        z = linear(beside, weight[:, -beside.shape[-1] :], self.first.bias)
        return self.second(silu(z + linear(x, weight[:, : x.shape[-1]])))


class MessageLayer(nn.Module):
    """One residual round of message passing over the blocks of a graph."""

    def __init__(
        self, width: int, edge_width: int, kernel_features: int, attention: int = 0
    ) -> None:
        super().__init__()
        c, f = width, edge_width
        self.node_norm = nn.LayerNorm(c)
        self.block_norm = nn.LayerNorm(c)
        self.graph_norm = nn.LayerNorm(c)
        self.edge = nn.Linear(f, f, bias=False)
        self.from_src = nn.Linear(c, f, bias=False)
        self.from_dst = nn.Linear(c, f, bias=False)
        self.from_block = nn.Linear(c, f)
        self.from_kernel = nn.Linear(kernel_features, f, bias=False)
        self.along_link = nn.Linear(c, f, bias=False)
        self.against_link = nn.Linear(c, f, bias=False)
        self.score = nn.Linear(f, 2 * attention, bias=False) if attention else None
        self.node_mlp = TwoLayer(2 * c + 3 * f, c, c)
        self.block_mlp = TwoLayer(2 * c + f, c, c)
        self.graph_mlp = TwoLayer(3 * c, c, c)

    def forward(
        self,
        layout: BlockedGraph,
        states: States,
        kernels: Tensor | None,
        keep_edges: bool = True,
    ) -> States:
        """Return the states after one round; shapes as they came.

        ``kernels`` [KERNEL_FEATURES, sum of E] are the kernel positions of all edges of a row.
        Without ``keep_edges`` the new edge states are not made (the last round, where only nodes,
        blocks and graph are read).
        """
        nodes = self.node_norm(states.nodes)
        blocks = self.block_norm(states.blocks)
        graph = self.graph_norm(states.graph)
        ends, routes = layout.ends.get(nodes), layout.routes.get(nodes)
        pairs = linear(nodes, torch.cat([self.from_dst.weight, self.from_src.weight]))
        dst, src = ends.spread(pairs, self.from_block(blocks))
        if kernels is not None:
            src = src + self.from_kernel.weight @ kernels
        weight = self.edge.weight
        if states.encoder is not None:
            weight = weight @ states.encoder
        given = (layout.sizes, states.edges, weight, states.encoder, src, dst)
        if self.score is None:
            edges, at_dst, at_src = edge_messages(*given, keep_edges)
        else:
            edges, at_dst, at_src = plain(*given, keep_edges, self.score.weight)

        pairs, to_block = ends.collect(at_dst, at_src)
        pooled = [nodes, pairs]
        if layout.links:
            across = nodes.mT
            along = mix(self.along_link.weight, across)
            against = mix(self.against_link.weight, across)
            pooled.append(routes.links(along, against).mT)
        u = graph.unsqueeze(-2)
        new_nodes = states.nodes + self.node_mlp(torch.cat(pooled, -1), u)
        new_blocks = states.blocks + self.block_mlp(torch.cat([blocks, to_block], -1), u)
        everything = [graph, blocks.mean(-2), routes.group_mean(nodes.mT)]
        new_graph = states.graph + self.graph_mlp(torch.cat(everything, -1))
        if edges is None:
            return States(new_nodes, states.edges, new_blocks, new_graph, states.encoder)
        return States(new_nodes, edges, new_blocks, new_graph)
