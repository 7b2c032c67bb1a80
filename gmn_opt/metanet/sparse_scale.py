"""Scale-equivariant message passing over an edge list: the reference for :mod:`.scale`.

One round is that of :class:`~gmn_opt.metanet.scale.ScaleLayer`, written as :mod:`.sparse` writes
the plain one: every edge is a row, and ``torch_geometric``'s scatter aggregates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch_geometric.utils import scatter

from gmn_opt.metanet.message_passing import States
from gmn_opt.metanet.scale import NodeScales, ScaledStates, ScaleLayer
from gmn_opt.metanet.sparse import Topology


def run_scaled(
    layers: Iterable[ScaleLayer],
    topology: Topology,
    scales: NodeScales,
    before: ScaledStates,
    kernels: Tensor,
    keep_edges: bool = True,
) -> States:
    """All rounds on an edge list.

    ``before`` is as of the blocked execution, but ``states.graph`` is ``[..., graphs, c]``;
    ``kernels`` [edges, KERNEL_FEATURES]; ``scales`` of all nodes.
    """
    rows = before.states.edges.mT
    for layer in layers:
        before, rows = sparse_scale_layer(layer, topology, scales, before, rows, kernels)
    states = before.states
    return replace(states, edges=rows.mT) if keep_edges else states


def sparse_scale_layer(
    layer: ScaleLayer,
    topology: Topology,
    scales: NodeScales,
    before: ScaledStates,
    edges: Tensor,
    kernels: Tensor,
) -> tuple[ScaledStates, Tensor]:
    """``layer`` on an edge list with edge states ``edges`` [..., all edges, f]."""
    t, states = topology, before.states
    z, y = before.z.mT, before.y.mT
    count, total, f = edges.shape[-2], z.shape[-2], layer.edge.in_features
    x, blocks = layer.node_norm(states.nodes), layer.block_norm(states.blocks)
    graph = layer.graph_norm(states.graph)

    at_src = t.src.read(torch.cat([layer.src_x(x), layer.src_z(z), layer.src_y(y)], -1), count)
    at_dst = t.dst.read(torch.cat([layer.dst_x(x), layer.dst_y(y), layer.dst_z(z)], -1), count)
    src_x, src_qz, src_z, src_y = at_src.split(f, -1)
    dst_x, dst_qy, dst_y, dst_z = at_dst.split(f, -1)
    q, w, forward, backward = layer.edge(edges).split(f, -1)
    of_block = layer.from_block(blocks)[..., t.block, :] + layer.from_kernel(kernels)
    h = silu(q * dst_qy * src_qz + dst_x + src_x + of_block)

    gate_z, gate_y = layer.gate(x).sigmoid().chunk(2, -1)
    link_z, link_y = layer.link_z(z), layer.link_y(y)
    # along links go activations, against them sensitivities; means are over both directions
    along = t.links.carry(link_z, torch.zeros_like(link_z), total)
    against = t.links.carry(torch.zeros_like(link_y), link_y, total)
    change_z = layer.keep_z(z) + layer.to_z(t.dst.write(forward * src_z, total)) + along
    change_y = layer.keep_y(y) + layer.to_y(t.src.write(backward * dst_y, total)) + against
    new_z, new_y = z + gate_z * change_z, y + gate_y * change_y

    node_in = [
        x,
        torch.asinh(new_z * new_y),
        t.dst.write(h, total),
        t.src.write(h, total),
        t.links.carry(layer.along_link(x), layer.against_link(x), total),
        scales.canonical(new_z.mT, layer.canonical_z).mT,
        scales.canonical(new_y.mT, layer.canonical_y).mT,
        graph[..., t.group_graph[t.group], :],
    ]
    to_block = scatter(h, t.block, -2, len(t.block_graph), "mean")
    block_in = [blocks, to_block, graph[..., t.block_graph, :]]
    per_group = scatter(x, t.group, -2, len(t.group_graph), "mean")
    mean_node = scatter(per_group, t.group_graph, -2, t.graphs, "mean")
    mean_block = scatter(blocks, t.block_graph, -2, t.graphs, "mean")
    after = States(
        states.nodes + layer.node_mlp(torch.cat(node_in, -1)),
        states.edges,
        states.blocks + layer.block_mlp(torch.cat(block_in, -1)),
        states.graph + layer.graph_mlp(torch.cat([graph, mean_block, mean_node], -1)),
    )
    return ScaledStates(after, new_z.mT, new_y.mT), edges + h * w + dst_z * src_y
