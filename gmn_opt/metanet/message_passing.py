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
a bias among a thousand weights. Edges are stored channels first, ``[..., f, D, E]``, so that the
long axes are the contiguous ones; the nodes of all groups stand in one tensor ``[..., N, c]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gmn_opt.metanet.layout import BlockedGraph


@dataclass(frozen=True)
class States:
    """What a metanet knows: per node, per edge, per block and per graph.

    nodes: ``[..., N, c]``, the groups one after the other; edges: ``[..., f, D, E]`` per block,
    as a sum; blocks: ``[..., blocks, c]``; graph: ``[..., c]``.
    """

    nodes: Tensor
    edges: list[Edges]
    blocks: Tensor
    graph: Tensor


def mix_channels(weight: Tensor, edges: Tensor, base: Tensor | None = None) -> Tensor:
    """``weight`` [..., g, f] applied to the channels of ``edges`` [..., f, D, E], plus ``base``.

    ``base`` [..., g, D, E] is overwritten where no gradient is recorded.
    """
    f, d, e = edges.shape[-3:]
    lead, g = edges.shape[:-3], weight.shape[-2]
    flat = edges.reshape(-1, f, d * e)
    # as a batch of its own: torch.matmul would fold the batch into the rows, and copy the edges
    weight = weight.expand(*lead, g, f).reshape(-1, g, f)
    if base is None:
        mixed = torch.bmm(weight, flat)
    elif torch.is_grad_enabled():
        mixed = torch.baddbmm(base.reshape(-1, g, d * e), weight, flat)
    else:
        mixed = base.view(-1, g, d * e).baddbmm_(weight, flat)
    return mixed.view(*lead, g, d, e)


@dataclass(frozen=True)
class Edges:
    """Edge states of a block as a sum that is never written out.

    ``terms`` are pairs of a matrix ``[..., f, g]`` (None for the identity) and a tensor
    ``[..., g, D, E]``. Whoever reads the states multiplies them by a matrix anyway, and a product
    of small matrices is cheaper than a pass over all edges.
    """

    terms: tuple[tuple[Tensor | None, Tensor], ...]

    @property
    def shape(self) -> torch.Size:
        """``[D, E]``."""
        return self.terms[0][1].shape[-2:]

    def plus(self, tensor: Tensor) -> Edges:
        """The states plus ``tensor`` [..., f, D, E]."""
        return Edges((*self.terms, (None, tensor)))

    def mix(self, weight: Tensor, base: Tensor | None = None) -> Tensor:
        """``weight`` [g, f] applied to the channels, plus ``base``: ``[..., g, D, E]``."""
        for matrix, tensor in self.terms:
            both = weight if matrix is None else weight @ matrix
            base = mix_channels(both, tensor, base)
        assert base is not None
        return base


class TwoLayer(nn.Module):
    """Linear, silu, linear: ``[..., inputs]`` to ``[..., outputs]``."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers."""
        return self.second(silu(self.first(x)))


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

    def forward(self, layout: BlockedGraph, states: States, kernels: list[Tensor | None]) -> States:
        """Return the states after one round; shapes as they came."""
        nodes = self.node_norm(states.nodes)
        blocks = self.block_norm(states.blocks)
        graph = self.graph_norm(states.graph)
        as_src = self.from_src(nodes).split(layout.group_sizes, -2)
        as_dst = self.from_dst(nodes).split(layout.group_sizes, -2)
        per_block = self.from_block(blocks).unbind(-2)

        messages: list[list[list[Tensor]]] = [[[] for _ in as_src] for _ in range(3)]
        to_block, edges = [], []
        for i, (b, e, kernel) in enumerate(zip(layout.blocks, states.edges, kernels, strict=True)):
            src = b.spread_src(b.src.read(as_src[b.src.group]))
            if kernel is not None:
                src = src + self.from_kernel(kernel)
            dst = b.dst.read(as_dst[b.dst.group]) + per_block[i].unsqueeze(-2)
            ends = src.mT.contiguous().unsqueeze(-2) + dst.mT.contiguous().unsqueeze(-1)
            h = silu(e.mix(self.edge.weight, ends), inplace=not torch.is_grad_enabled())
            at_dst, at_src = _mean(h, -1).mT, b.pool_src(_mean(h, -2).mT)
            messages[0][b.dst.group].append(b.dst.write(at_dst))
            messages[1][b.src.group].append(b.src.write(at_src))
            to_block.append(at_dst.mean(-2))
            edges.append(e.plus(h))
        if layout.graph.links:
            along = self.along_link(nodes).split(layout.group_sizes, -2)
            against = self.against_link(nodes).split(layout.group_sizes, -2)
            for link in layout.graph.links:
                messages[2][link.dst].append(along[link.src])
                messages[2][link.src].append(against[link.dst])

        pooled = [
            _pool(kind, counts, as_src)
            for kind, counts in zip(messages, layout.message_counts, strict=True)
        ]
        u = graph.unsqueeze(-2)
        everything = [nodes, *pooled, u.expand(*nodes.shape[:-1], -1)]
        new_nodes = states.nodes + self.node_mlp(torch.cat(everything, -1))
        everything = [blocks, torch.stack(to_block, -2), u.expand(*blocks.shape[:-1], -1)]
        new_blocks = states.blocks + self.block_mlp(torch.cat(everything, -1))
        mean_node = torch.stack([x.mean(-2) for x in nodes.split(layout.group_sizes, -2)]).mean(0)
        everything = [graph, blocks.mean(-2), mean_node]
        new_graph = states.graph + self.graph_mlp(torch.cat(everything, -1))
        return States(new_nodes, edges, new_blocks, new_graph)


def _mean(h: Tensor, dim: int) -> Tensor:
    return h.squeeze(dim) if h.shape[dim] == 1 else h.mean(dim)


def _pool(
    messages: list[list[Tensor]], counts: list[int | Tensor], like: tuple[Tensor, ...]
) -> Tensor:
    """Mean of the messages to every node, zero where there is none: ``[..., N, f]``."""
    rows = []
    for group, count, x in zip(messages, counts, like, strict=True):
        if not group:
            rows.append(torch.zeros_like(x))
        elif len(group) == 1:
            rows.append(group[0])
        else:
            total = torch.stack(group).sum(0)
            rows.append(total / (count if isinstance(count, int) else count.to(x)))
    return torch.cat(rows, -2)
