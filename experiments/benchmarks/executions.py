"""Other ways to execute a metanet, for comparison: the same function, the same parameters.

``gather``       plain message passing as in torch_geometric's MetaLayer: gather both ends of every
                 edge, concatenate, one linear layer, scatter. The batch is a disjoint union.
``preprojected`` the same, but the linear layer is applied to nodes before they are gathered.
``dense``        node by node states ``[B, N, N, f]``, masked where there is no edge.

They serve graphs without links, in which a block sees every node of its groups (MLPs, SIRENs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, silu
from torch_geometric.utils import scatter

from gmn_opt import GraphMetanet
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked
from gmn_opt.metanet.features import KERNEL_FEATURES, structural
from gmn_opt.metanet.incidence import incidence_of
from gmn_opt.metanet.layers.message import MessageLayer
from gmn_opt.metanet.reference import edge_list


@dataclass(frozen=True)
class EdgeList:
    """A disjoint union of ``batch`` copies of a graph as index vectors.

    ``src``, ``dst``, ``block``: ends and block of every edge; ``in_pair`` and ``out_pair``: number
    of its (block, node) pair at either end, ``in_node`` and ``out_node`` the node of every pair.
    """

    graph: ParameterGraph
    batch: int
    src: Tensor
    dst: Tensor
    block: Tensor
    kernel: Tensor
    in_pair: Tensor
    in_node: Tensor
    out_pair: Tensor
    out_node: Tensor
    node_group: Tensor
    node_network: Tensor
    block_network: Tensor
    nodes: int
    blocks: int
    groups: int

    @staticmethod
    def of(graph: ParameterGraph, batch: int, metanet: GraphMetanet) -> EdgeList:
        """List the edges, network after network; raises ValueError for other graphs."""
        layout = blocked(graph)
        whole = all(b.dst.is_whole and b.src.is_whole for b in layout.blocks)
        if graph.links or not whole:
            raise ValueError("These executions serve graphs without links and partial blocks.")
        like = metanet.graph_state
        one = incidence_of(graph, like)
        listed = edge_list.EdgeList.of([one] * batch)
        in_node = listed.incidence.destinations.column
        out_node = listed.incidence.sources.column
        kernels = structural(graph, like)[2]
        if kernels is None:
            kernels = like.new_zeros(KERNEL_FEATURES, one.counts[3])
        sizes, copies = torch.tensor(layout.group_sizes), torch.arange(batch)
        groups = torch.arange(len(sizes)).repeat_interleave(sizes)
        return EdgeList(
            graph, batch, out_node[listed.source], in_node[listed.destination], listed.block,
            kernels.T.repeat(batch, 1)[listed.source],
            listed.destination, in_node, listed.source, out_node,
            (groups + copies.unsqueeze(1) * len(sizes)).flatten(), listed.node_graph,
            listed.block_graph, one.counts[0] * batch, one.counts[1] * batch, len(sizes) * batch,
        )  # fmt: skip


def _edge_linear(layer: MessageLayer) -> tuple[Tensor, Tensor]:
    parts = [layer.from_src, layer.from_dst, layer.edge, layer.from_block, layer.from_kernel]
    return torch.cat([p.weight for p in parts], 1), layer.from_block.bias


def _update(
    layer: MessageLayer, g: EdgeList, x: Tensor, b: Tensor, u: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, blocks and graph states from the pooled messages, all networks in one list."""
    into, out, to_block, x0, b0, u0 = state
    links = torch.zeros_like(into)
    x1 = x0 + layer.node_mlp(torch.cat([x, into, out, links, u[g.node_network]], -1))
    b1 = b0 + layer.block_mlp(torch.cat([b, to_block, u[g.block_network]], -1))
    per_group = scatter(x, g.node_group, 0, g.groups, "mean")
    mean_node = per_group.unflatten(0, (g.batch, -1)).mean(1)
    mean_block = scatter(b, g.block_network, 0, g.batch, "mean")
    return x1, b1, u0 + layer.graph_mlp(torch.cat([u, mean_block, mean_node], -1))


def _message_passing(
    metanet: GraphMetanet, g: EdgeList, tensors: Mapping[str, Tensor], preprojected: bool
) -> dict[str, Tensor]:
    layout = blocked(g.graph)
    assert metanet.in_features == 1
    values = layout.flatten({n: t[..., 0] for n, t in tensors.items()}).flatten()[:, None]
    node_known, block_known, _ = structural(g.graph, values)
    e = metanet.edge_encoder(values)
    x0 = metanet.node_encoder(node_known).repeat(g.batch, 1)
    b0 = metanet.block_encoder(block_known).repeat(g.batch, 1)
    u0 = metanet.graph_state.expand(g.batch, -1)
    for layer in metanet.layers:
        assert isinstance(layer, MessageLayer)
        x, b, u = layer.node_norm(x0), layer.block_norm(b0), layer.graph_norm(u0)
        if preprojected:
            h = layer.from_src(x)[g.src] + layer.from_dst(x)[g.dst]
            h = silu(h + layer.edge(e) + layer.from_block(b)[g.block] + layer.from_kernel(g.kernel))
        else:
            weight, bias = _edge_linear(layer)
            h = silu(
                linear(torch.cat([x[g.src], x[g.dst], e, b[g.block], g.kernel], -1), weight, bias)
            )
        e = e + h
        into = scatter(h, g.in_pair, 0, len(g.in_node), "mean")
        into = scatter(into, g.in_node, 0, g.nodes, "mean")
        out = scatter(h, g.out_pair, 0, len(g.out_node), "mean")
        out = scatter(out, g.out_node, 0, g.nodes, "mean")
        to_block = scatter(h, g.block, 0, g.blocks, "mean")
        x0, b0, u0 = _update(layer, g, x, b, u, (into, out, to_block, x0, b0, u0))
    assert metanet.readout is not None
    flat = metanet.readout(e).unflatten(0, (g.batch, -1))
    named = layout.unflatten(flat.movedim(-1, 0))
    return {n: t.movedim(0, -1) for n, t in named.items()}


def gather(metanet: GraphMetanet, g: EdgeList, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain message passing: gather, concatenate, linear, scatter."""
    return _message_passing(metanet, g, tensors, preprojected=False)


def preprojected(
    metanet: GraphMetanet, g: EdgeList, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Message passing whose linear layer is applied to nodes before they are gathered."""
    return _message_passing(metanet, g, tensors, preprojected=True)


def dense(metanet: GraphMetanet, g: EdgeList, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every pair of nodes has an edge state, ``[B, N, N, f]``; pairs without an edge are masked.

    Blocks must not share a pair of nodes (no kernels larger than 1).
    """
    layout = blocked(g.graph)
    n, blocks = g.nodes // g.batch, len(layout.blocks)
    one = sum(layout.edge_counts)
    src, dst, block = g.src[:one], g.dst[:one], g.block[:one]
    place = dst * n + src
    values = layout.flatten({name: t[..., 0] for name, t in tensors.items()})
    node_known, block_known, _ = structural(g.graph, values)
    e = values.new_zeros(g.batch, n * n, 1).index_copy(1, place, values.unsqueeze(-1))
    e = metanet.edge_encoder(e).unflatten(1, (n, n))
    mask = values.new_zeros(n * n).index_fill(0, place, 1.0).view(n, n, 1)
    block_of = place.new_zeros(n * n).index_copy(0, place, block)
    # a mean within blocks and then over blocks is one weighted sum over the edges of a node
    weights = []
    for pair, node in ((g.in_pair, g.in_node), (g.out_pair, g.out_node)):
        size, meets = pair.bincount()[pair[:one]], node.bincount()[node[pair[:one]]]
        weight = 1.0 / (size * meets).to(values)
        weights.append(values.new_zeros(n * n).index_copy(0, place, weight).view(n, n, 1))
    per_block = values.new_zeros(n * n, blocks)
    per_block[place, block] = (1.0 / block.bincount().to(values))[block]
    x0 = metanet.node_encoder(node_known).expand(g.batch, -1, -1)
    b0 = metanet.block_encoder(block_known).expand(g.batch, -1, -1)
    u0 = metanet.graph_state.expand(g.batch, -1)
    sizes = layout.group_sizes
    for layer in metanet.layers:
        assert isinstance(layer, MessageLayer)
        x, b, u = layer.node_norm(x0), layer.block_norm(b0), layer.graph_norm(u0)
        ends = layer.from_src(x).unsqueeze(1) + layer.from_dst(x).unsqueeze(2)
        ends = ends + layer.from_block(b)[:, block_of].unflatten(1, (n, n))
        h = silu(layer.edge(e) + ends) * mask
        e = e + h
        into, out = (h * weights[0]).sum(2), (h * weights[1]).sum(1)
        to_block = torch.einsum("bpf,pk->bkf", h.flatten(1, 2), per_block)
        each = u.unsqueeze(1)
        node_in = [x, into, out, torch.zeros_like(into), each.expand(-1, n, -1)]
        x0 = x0 + layer.node_mlp(torch.cat(node_in, -1))
        b0 = b0 + layer.block_mlp(torch.cat([b, to_block, each.expand(-1, blocks, -1)], -1))
        mean_node = torch.stack([part.mean(1) for part in x.split(sizes, 1)]).mean(0)
        u0 = u0 + layer.graph_mlp(torch.cat([u, b.mean(1), mean_node], -1))
    assert metanet.readout is not None
    flat = metanet.readout(e).flatten(1, 2)[:, place]
    named = layout.unflatten(flat.movedim(-1, 0))
    return {name: t.movedim(0, -1) for name, t in named.items()}
