"""Message passing that respects scales of neurons beside permutations.

Which scales leave a function as it is, :mod:`gmn_opt.metanet.scale` says.
ScaleGMN (Kalogeropoulos et al. 2024, arXiv 2406.10685) builds metanets that are equivariant to
these too. Ours follows its bidirectional variant (section 5), with two more states per node,

    z_i -> s_i z_i    as activations go,        y_i -> y_i / s_i    as sensitivities go,

beside the invariant node states x of :class:`~gmn_opt.metanet.layers.message.MessageLayer`:

    h_ij  = silu(Q e_ij * Y y_i * Z z_j + X x_i + X' x_j + block + kernel)      invariant
    z_i  += gate(x_i) * (linear z_i + mean over j of A z_j * B e_ij)
    y_j  += gate(x_j) * (linear y_j + mean over i of C y_i * D e_ij)
    e_ij += h_ij * W e_ij + F z_i * G y_j
    x     as in MessageLayer, from means of h, from z * y, and from z and y in canonical form:
          |linear v| where signs may change, linear v / rms(v) where positive scales may

Deviations: invariant and equivariant parts are gated products in place of MLPs on canonical forms;
biases are edges from nodes of scale 1, as everywhere here. z begins at inputs and bias nodes, y at
outputs, so it takes as many rounds as the network has layers until each has met the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from gmn_opt.metanet.backends.plain import Messages, mix, over_blocks
from gmn_opt.metanet.execution import choose
from gmn_opt.metanet.incidence import Incidence
from gmn_opt.metanet.layers.states import States, TwoLayer
from gmn_opt.metanet.scale import NodeScales


@dataclass(frozen=True)
class ScaledStates:
    """Invariant states with equivariant edges, z and y ``[..., N, c]``, and what may scale."""

    states: States
    z: Tensor
    y: Tensor
    scales: NodeScales


class ScaleEncoder(nn.Module):
    """z and y before the first round: from structure at nodes of scale 1, else zero."""

    def __init__(self, node_features: int, width: int) -> None:
        super().__init__()
        self.z = nn.Linear(node_features, width)
        self.y = nn.Linear(node_features, width)

    def forward(self, states: States, known: Tensor, scales: NodeScales) -> ScaledStates:
        """``known`` [N, node_features]; the states' encoder is applied to their edges."""
        if states.encoder is not None:
            if states.encoder.dim() > 2:
                raise ValueError("A metanet with scale= takes no edge_scale; scale the features.")
            states = replace(states, edges=states.encoder @ states.edges, encoder=None)
        lead = states.nodes.shape[:-2]
        z, y = ((scales.fixed * linear(known)).expand(*lead, -1, -1) for linear in (self.z, self.y))
        return ScaledStates(states, z, y, scales)


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
        incidence: Incidence,
        before: ScaledStates,
        kernels: Tensor | None,
        keep_edges: bool = True,
    ) -> ScaledStates:
        """Return the states after one round; arguments as those of `MessageLayer`."""
        states, z, y, scales = before.states, before.z, before.y, before.scales
        x, blocks = self.node_norm(states.nodes), self.block_norm(states.blocks)
        graph = self.graph_norm(states.graph)
        f = self.edge.in_features
        run = choose(x, states.edges, self.edge.weight)
        as_dst = (self.dst_x(x), self.dst_y(y), self.dst_z(z))
        as_src = (self.src_x(x), self.src_z(z), self.src_y(y))
        per_block = pad(self.from_block(blocks), (0, 3 * f))
        dst, src = run.gather(incidence, torch.cat([*as_dst, *as_src], -1), per_block)
        if kernels is not None:
            src = src + pad(self.from_kernel.weight @ kernels, (0, 0, 0, 3 * f))

        def arithmetic(i: int, part: Tensor, s: Tensor, t: Tensor) -> Messages:
            q, w, forward, backward = part.unflatten(-1, incidence.sizes[i]).split(f, -3)
            (dst_x, dst_qy, dst_y, dst_z), (src_x, src_qz, src_z, src_y) = (
                ends.split(f, -3) for ends in (t, s)
            )
            h = silu(q * dst_qy * src_qz + dst_x + src_x)
            change = (h * w + dst_z * src_y).flatten(-2) if keep_edges else None
            to_dst, to_src = (
                torch.cat([h, forward * src_z], -3),
                torch.cat([h, backward * dst_y], -3),
            )
            return change, to_dst, to_src

        edges = mix(self.edge.weight, states.edges)
        change, at_dst, at_src = over_blocks(incidence.sizes, arithmetic, edges, src, dst)
        pairs, to_block = run.pool(incidence, at_dst, at_src)
        h_in, z_in, h_out, y_out = pairs.split(f, -1)
        x_links, z_links, y_links = self._over_links(incidence, x, z, y)
        gate_z, gate_y = self.gate(x).sigmoid().chunk(2, -1)
        new_z = z + gate_z * (self.keep_z(z) + self.to_z(z_in) + z_links)
        new_y = y + gate_y * (self.keep_y(y) + self.to_y(y_out) + y_links)
        pooled = [
            x,
            torch.asinh(new_z * new_y),
            h_in,
            h_out,
            x_links,
            scales.canonical(new_z, self.canonical_z(new_z)),
            scales.canonical(new_y, self.canonical_y(new_y)),
        ]
        u = graph.unsqueeze(-2)
        everything = [graph, blocks.mean(-2), incidence.node_mean(x)]
        after = States(
            states.nodes + self.node_mlp(torch.cat(pooled, -1), u),
            states.edges if change is None else states.edges + change,
            states.blocks + self.block_mlp(torch.cat([blocks, to_block[..., :f]], -1), u),
            states.graph + self.graph_mlp(torch.cat(everything, -1)),
        )
        return ScaledStates(after, new_z, new_y, scales)

    def _over_links(
        self, incidence: Incidence, x: Tensor, z: Tensor, y: Tensor
    ) -> tuple[Tensor, ...]:
        """Along links go activations, against them sensitivities; means are over both ways."""
        c, f = z.shape[-1], self.along_link.out_features
        if not incidence.has_links:
            zeros = (t.new_zeros(*t.shape[:-1], n) for t, n in ((x, f), (z, c), (y, c)))
            return tuple(zeros)
        z_along, y_against = self.link_z(z), self.link_y(y)
        along = torch.cat([self.along_link(x), z_along, torch.zeros_like(y_against)], -1)
        against = torch.cat([self.against_link(x), torch.zeros_like(z_along), y_against], -1)
        return incidence.over_links(along, against).split([f, c, c], -1)
