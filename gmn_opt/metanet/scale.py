"""Message passing that respects scales of neurons beside permutations.

A neuron with an odd activation (sine, tanh) may change the sign of all that goes in and out; one
with a ReLU may multiply what goes in by any s > 0 and divide what goes out by it. With a scale
s_i per neuron, a parameter from j to i goes over into s_i e_ij / s_j, and the function stays as it
was. ScaleGMN (Kalogeropoulos et al. 2024, arXiv 2406.10685) builds metanets that are equivariant
to these too. Ours follows its bidirectional variant (section 5), with two more states per node,

    z_i -> s_i z_i    as activations go,        y_i -> y_i / s_i    as sensitivities go,

beside the invariant node states x of :class:`~gmn_opt.metanet.message_passing.MessageLayer`:

    h_ij  = silu(Q e_ij * Y y_i * Z z_j + X x_i + X' x_j + block + kernel)      invariant
    z_i  += gate(x_i) * (linear z_i + mean over j of A z_j * B e_ij)
    y_j  += gate(x_j) * (linear y_j + mean over i of C y_i * D e_ij)
    e_ij += h_ij * W e_ij + F z_i * G y_j
    x     as in MessageLayer, from means of h, from z * y, and from z and y in canonical form:
          |linear v| where signs may change, linear v / rms(v) where positive scales may

The blocked execution is here, one over an edge list in :mod:`gmn_opt.metanet.sparse_scale`.

Deviations: invariant and equivariant parts are gated products in place of MLPs on canonical forms;
biases are edges from nodes of scale 1, as everywhere here. z begins at inputs and bias nodes, y at
outputs, so it takes as many rounds as the network has layers until each has met the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gmn_opt.metanet.layout import BlockedGraph, blocked
from gmn_opt.metanet.message_passing import States, TwoLayer

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph

Scale = Literal["sign", "positive", "auto"]

#: f(-x) = -f(x), and f(s x) = s f(x) for s > 0.
ODD = ("sin", "tanh", "erf", "softsign", "asinh", "atan")
HOMOGENEOUS = ("relu", "leaky_relu")
_KINDS = ("linear", "conv", "bias", "embedding")


def scaled_groups(graph: ParameterGraph, scale: Scale) -> list[Literal["sign", "positive"] | None]:
    """Per group of neurons, which scales leave the function as it is; None for scale 1 only.

    A hidden group has them by its activation function, if nothing else holds its scale: no links
    (to neurons that are added, multiplied or normalized), none but linear layers, convolutions,
    embeddings and biases, met neuron by neuron, at least one of them outgoing, no other group with
    the same neurons (shared layers), no parametrized tensors (weight norm). What the graph does
    not say is not seen: a maximum over positions keeps positive scales, but not signs.
    """
    layout = blocked(graph)
    ends = [(e.group, b, e) for b in layout.blocks for e in (b.dst, b.src)]
    barred = {g for g, b, e in ends if b.block.kind not in _KINDS or not e.is_whole}
    barred |= {g for link in graph.links for g in (link.src, link.dst)}
    barred |= {g for b in graph.buffer_blocks for g in (b.src, b.dst)}
    barred |= {g.id for g in graph.groups} - {b.src.group for b in layout.blocks}
    factors = Counter(f for g in graph.groups for f in g.factors)
    barred |= {g.id for g in graph.groups if any(factors[f] > 1 for f in g.factors)}
    barred |= {g for g, b, _ in ends if ".parametrizations." in f".{b.block.tensor}"}
    found: list[Literal["sign", "positive"] | None] = []
    for group in graph.groups:
        free = group.role == "hidden" and group.id not in barred
        if free and group.activation in ODD and scale != "positive":
            found.append("sign")
        elif free and group.activation in HOMOGENEOUS and scale != "sign":
            found.append("positive")
        else:
            found.append(None)
    return found


def random_scales(
    graph: ParameterGraph, scale: Scale, generator: torch.Generator | None = None
) -> Tensor:
    """Float64 ``[N]``: signs and positive scales (log-normal) where they are free, else 1."""
    parts = []
    for kind, size in zip(scaled_groups(graph, scale), blocked(graph).group_sizes, strict=True):
        drawn = torch.randn(size, generator=generator, dtype=torch.float64)
        made = {"sign": 2.0 * (drawn > 0) - 1, "positive": drawn.exp(), None: drawn * 0 + 1}
        parts.append(made[kind])
    return torch.cat(parts)


def rescale(graph: ParameterGraph, tensors: dict[str, Tensor], scales: Tensor) -> dict[str, Tensor]:
    """Named tensors ``[..., *shape]`` with every parameter times s_dst / s_src, ``scales`` [N]."""
    layout = blocked(graph)
    by_group = scales.split(layout.group_sizes)
    edges = []
    for b, e in zip(layout.blocks, layout.split(tensors), strict=True):
        src = b.spread_src(b.src.read(by_group[b.src.group]))
        edges.append(e * b.dst.read(by_group[b.dst.group]).unsqueeze(-1) / src)
    return layout.join(edges)


@dataclass(frozen=True)
class NodeScales:
    """Which nodes have which scales, 0 or 1 in ``[N]``, and how many blocks and links they meet."""

    sign: Tensor
    positive: Tensor
    fixed: Tensor
    incoming: Tensor
    outgoing: Tensor
    linked: Tensor

    @staticmethod
    def of(graph: ParameterGraph, scale: Scale, like: Tensor) -> NodeScales:
        """Of a graph, in the dtype and on the device of ``like``; kept on the layout."""
        layout = blocked(graph)
        cache = layout.__dict__.setdefault("_node_scales", {})
        key = (scale, like.dtype, like.device)
        if key not in cache:
            cache[key] = NodeScales(*(t.to(like) for t in _node_scales(layout, scale)))
        found: NodeScales = cache[key]
        return found

    @staticmethod
    def union(parts: Sequence[NodeScales]) -> NodeScales:
        """Of graphs side by side."""
        names = [f.name for f in fields(NodeScales)]
        return NodeScales(*(torch.cat([getattr(p, name) for p in parts]) for name in names))

    def canonical(self, v: Tensor, linear: nn.Linear) -> Tensor:
        """What is the same for all scales of ``v`` [..., c, N]: ``[..., f, N]``."""
        rms = v.square().mean(-2, keepdim=True)
        some = rms > 0
        inverse = torch.where(some, torch.where(some, rms, 1.0).rsqrt(), 0.0)
        mixed = linear.weight @ v
        return self.sign * mixed.abs() + (self.positive * inverse + self.fixed) * mixed


def _node_scales(layout: BlockedGraph, scale: Scale) -> list[Tensor]:
    kinds = scaled_groups(layout.graph, scale)
    rows = []
    for wanted in ("sign", "positive", None):
        parts = [
            torch.full((n,), float(kind == wanted), dtype=torch.float64)
            for kind, n in zip(kinds, layout.group_sizes, strict=True)
        ]
        rows.append(torch.cat(parts))
    for ends in ([b.dst for b in layout.blocks], [b.src for b in layout.blocks]):
        counts = [torch.zeros(n, dtype=torch.float64) for n in layout.group_sizes]
        for end in ends:
            counts[end.group] += end.coverage()
        rows.append(torch.cat(counts).clamp_min(1))
    counts = [torch.zeros(n, dtype=torch.float64) for n in layout.group_sizes]
    for link in layout.links:
        counts[link.src] += 1
        counts[link.dst] += 1
    rows.append(torch.cat(counts).clamp_min(1))
    return rows


@dataclass(frozen=True)
class ScaledStates:
    """Invariant states with their equivariant edges, and z and y ``[..., c, N]``."""

    states: States
    z: Tensor
    y: Tensor


class ScaleEncoder(nn.Module):
    """z and y before the first round: from structure at nodes of scale 1, else zero."""

    def __init__(self, node_features: int, width: int) -> None:
        super().__init__()
        self.z = nn.Linear(node_features, width)
        self.y = nn.Linear(node_features, width)

    def forward(self, states: States, known: Tensor, scales: NodeScales) -> ScaledStates:
        """``known`` [..., N, node_features]; the states' encoder is applied to their edges."""
        if states.encoder is not None:
            if states.encoder.dim() > 2:
                raise ValueError("A metanet with scale= takes no edge_scale; scale the features.")
            states = replace(states, edges=states.encoder @ states.edges, encoder=None)
        lead = states.nodes.shape[:-2]
        z, y = (
            (scales.fixed * linear(known).mT).expand(*lead, -1, -1) for linear in (self.z, self.y)
        )
        return ScaledStates(states, z, y)


class ScaleLayer(nn.Module):
    """One round; see the head of this file."""

    def __init__(self, width: int, edge_width: int, kernel_features: int) -> None:
        super().__init__()
        c, f = width, edge_width
        self.node_norm, self.block_norm = nn.LayerNorm(c), nn.LayerNorm(c)
        self.graph_norm = nn.LayerNorm(c)
        self.edge = nn.Linear(f, 4 * f, bias=False)  # Q, W, B, D
        self.src_x = nn.Linear(c, f, bias=False)
        self.src_z = nn.Linear(c, 2 * f, bias=False)  # Z, A
        self.src_y = nn.Linear(c, f, bias=False)  # G
        self.dst_x = nn.Linear(c, f, bias=False)
        self.dst_z = nn.Linear(c, f, bias=False)  # F
        self.dst_y = nn.Linear(c, 2 * f, bias=False)  # Y, C
        self.from_block = nn.Linear(c, f)
        self.from_kernel = nn.Linear(kernel_features, f, bias=False)
        self.along_link = nn.Linear(c, f, bias=False)
        self.against_link = nn.Linear(c, f, bias=False)
        self.canonical_z, self.canonical_y = (nn.Linear(c, f, bias=False) for _ in range(2))
        self.keep_z, self.keep_y = (nn.Linear(c, c, bias=False) for _ in range(2))
        self.to_z, self.to_y = (nn.Linear(f, c, bias=False) for _ in range(2))
        self.link_z, self.link_y = (nn.Linear(c, c, bias=False) for _ in range(2))
        self.gate = nn.Linear(c, 2 * c)
        self.node_mlp = TwoLayer(3 * c + 5 * f, c, c)
        self.block_mlp = TwoLayer(2 * c + f, c, c)
        self.graph_mlp = TwoLayer(3 * c, c, c)

    def forward(
        self,
        layout: BlockedGraph,
        scales: NodeScales,
        before: ScaledStates,
        kernels: Tensor | None,
        keep_edges: bool = True,
    ) -> ScaledStates:
        """Return the states after one round; ``kernels`` [KERNEL_FEATURES, sum of E] as there."""
        states, z, y = before.states, before.z, before.y
        sizes = layout.group_sizes
        x, blocks = self.node_norm(states.nodes), self.block_norm(states.blocks)
        graph = self.graph_norm(states.graph)
        across = x.mT
        weights = (self.src_x.weight @ across, self.src_z.weight @ z, self.src_y.weight @ y)
        as_src = torch.cat(weights, -2).split(sizes, -1)
        weights = (self.dst_x.weight @ across, self.dst_y.weight @ y, self.dst_z.weight @ z)
        as_dst = torch.cat(weights, -2).split(sizes, -1)
        per_block = self.from_block(blocks).mT
        f = self.edge.in_features
        edges = layout.blocks_of_flat(self.edge.weight @ states.edges)

        pools = [_Pool(layout, across) for _ in range(6)]
        h_in, h_out, z_in, y_out, link_z, link_y = pools
        to_block, changes = [], []
        per_kernel = _kernels_by_block(layout, kernels)
        for i, (b, e, kernel) in enumerate(zip(layout.blocks, edges, per_kernel, strict=True)):
            s = b.spread_src(b.src.read(as_src[b.src.group])).unsqueeze(-2).split(f, -3)
            d = b.dst.read(as_dst[b.dst.group]).unsqueeze(-1).split(f, -3)
            q, w, forward, backward = e.split(f, -3)
            (src_x, src_qz, src_z, src_y), (dst_x, dst_qy, dst_y, dst_z) = s, d
            h = q * dst_qy * src_qz + dst_x + src_x + per_block[..., i, None, None]
            if kernel is not None:
                h = h + (self.from_kernel.weight @ kernel).unsqueeze(-2)
            h = silu(h)
            h_in.add(b.dst.group, b.dst.write(h.mean(-1)))
            h_out.add(b.src.group, b.src.write(b.pool_src(h.mean(-2))))
            z_in.add(b.dst.group, b.dst.write((forward * src_z).mean(-1)))
            y_out.add(b.src.group, b.src.write(b.pool_src((backward * dst_y).mean(-2))))
            to_block.append(h.mean((-1, -2)))
            if keep_edges:
                changes.append((h * w + dst_z * src_y).flatten(-2))
        links = _Pool(layout, across)
        if layout.links:
            x_along, x_against, z_link, y_link = (
                (m.weight @ v).split(sizes, -1)
                for m, v in (
                    *((self.along_link, across), (self.against_link, across)),
                    *((self.link_z, z), (self.link_y, y)),
                )
            )
            for link in layout.links:
                links.add(link.dst, link.along(x_along[link.src]))
                links.add(link.src, link.against(x_against[link.dst]))
                link_z.add(link.dst, link.along(z_link[link.src]))
                link_y.add(link.src, link.against(y_link[link.dst]))

        gate_z, gate_y = self.gate(x).mT.sigmoid().chunk(2, -2)
        c = across.shape[-2]
        new_z = self.keep_z.weight @ z + self.to_z.weight @ z_in.mean(scales.incoming, f)
        new_y = self.keep_y.weight @ y + self.to_y.weight @ y_out.mean(scales.outgoing, f)
        new_z = z + gate_z * (new_z + link_z.mean(scales.linked, c))
        new_y = y + gate_y * (new_y + link_y.mean(scales.linked, c))

        u = graph.unsqueeze(-2)
        invariants = [
            across,
            torch.asinh(new_z * new_y),
            h_in.mean(scales.incoming, f),
            h_out.mean(scales.outgoing, f),
            links.mean(scales.linked, f),
            scales.canonical(new_z, self.canonical_z),
            scales.canonical(new_y, self.canonical_y),
        ]
        everything = torch.cat([torch.cat(invariants, -2).mT, u.expand(*x.shape[:-1], -1)], -1)
        new_blocks = torch.cat(
            [blocks, torch.stack(to_block, -2), u.expand(*blocks.shape[:-1], -1)], -1
        )
        mean_node = torch.stack([g.mean(-2) for g in x.split(sizes, -2)]).mean(0)
        new_graph = torch.cat([graph, blocks.mean(-2), mean_node], -1)
        after = States(
            states.nodes + self.node_mlp(everything),
            states.edges + torch.cat(changes, -1) if keep_edges else states.edges,
            states.blocks + self.block_mlp(new_blocks),
            states.graph + self.graph_mlp(new_graph),
        )
        return ScaledStates(after, new_z, new_y)


class _Pool:
    """Messages to nodes, group by group."""

    def __init__(self, layout: BlockedGraph, like: Tensor) -> None:
        self.sizes, self.like = layout.group_sizes, like
        self.sums: dict[int, Tensor] = {}

    def add(self, group: int, message: Tensor) -> None:
        """``[..., f, nodes of the group]``."""
        known = self.sums.get(group)
        self.sums[group] = message if known is None else known + message

    def mean(self, counts: Tensor, channels: int) -> Tensor:
        """Sums over ``counts`` [N], zero where there is nothing: ``[..., channels, N]``."""
        lead = self.like.shape[:-2]
        parts = [
            self.sums[g] if g in self.sums else self.like.new_zeros(*lead, channels, size)
            for g, size in enumerate(self.sizes)
        ]
        return torch.cat(parts, -1) / counts


def _kernels_by_block(layout: BlockedGraph, kernels: Tensor | None) -> list[Tensor | None]:
    """Kernel features ``[channels, E]`` per block."""
    if kernels is None:
        return [None] * len(layout.blocks)
    return list(kernels.split([e for _, e in layout.sizes], -1))
