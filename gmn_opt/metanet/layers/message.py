"""One round of message passing, block by block: no list of edges, no concatenation over them.

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
a bias among a thousand weights. Edges are stored channels first,
``[..., f, P]``, so that the long axis is the contiguous one; the nodes of all groups stand in one
tensor ``[..., N, c]``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gmn_opt.metanet.execution import choose
from gmn_opt.metanet.incidence import Incidence
from gmn_opt.metanet.layers.states import States, TwoLayer


class MessageLayer(nn.Module):
    """One residual round of message passing over the blocks of a graph."""

    def __init__(self, width: int, edge_width: int, kernel_features: int) -> None:
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
        self.node_mlp = TwoLayer(2 * c + 3 * f, c, c)
        self.block_mlp = TwoLayer(2 * c + f, c, c)
        self.graph_mlp = TwoLayer(3 * c, c, c)

    def forward(
        self,
        incidence: Incidence,
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
        weight = self.edge.weight
        run = choose(nodes, states.edges, weight)
        pairs = linear(nodes, torch.cat([self.from_dst.weight, self.from_src.weight]))
        dst, src = run.gather(incidence, pairs, self.from_block(blocks))
        if kernels is not None:
            src = src + self.from_kernel.weight @ kernels
        if states.encoder is not None:
            weight = weight @ states.encoder
        given = (states.edges, weight, states.encoder, src, dst)
        edges, at_dst, at_src = run.edge_pass(incidence.sizes, keep_edges, *given)

        pairs, to_block = run.pool(incidence, at_dst, at_src)
        pooled = [nodes, pairs]
        if incidence.has_links:
            pooled.append(incidence.over_links(self.along_link(nodes), self.against_link(nodes)))
        u = graph.unsqueeze(-2)
        new_nodes = states.nodes + self.node_mlp(torch.cat(pooled, -1), u)
        new_blocks = states.blocks + self.block_mlp(torch.cat([blocks, to_block], -1), u)
        everything = [graph, blocks.mean(-2), incidence.node_mean(nodes)]
        new_graph = states.graph + self.graph_mlp(torch.cat(everything, -1))
        if edges is None:
            return States(new_nodes, states.edges, new_blocks, new_graph, states.encoder)
        return States(new_nodes, edges, new_blocks, new_graph)
