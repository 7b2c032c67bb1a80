"""Which neurons of a network may be rescaled, and networks with rescaled neurons.

A neuron with an odd activation (sine, tanh) may change the sign of all that goes in and out; one
with a ReLU may multiply what goes in by any s > 0 and divide what goes out by it. With a scale
s_i per neuron, a parameter from j to i goes over into s_i e_ij / s_j, and the function stays as it
was. Layers that are equivariant to this are in :mod:`gmn_opt.metanet.layers.scale`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gmn_opt.metanet.backends.plain import gather
from gmn_opt.metanet.incidence import incidence_of
from gmn_opt.metanet.kept import kept
from gmn_opt.metanet.layout import blocked

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
    ends = gather(incidence_of(graph, scales), scales.unsqueeze(-1).expand(-1, 2))
    dst, src = (t.squeeze(-2) for t in ends)
    pairs = zip(layout.split(tensors), layout.ends(dst, src), strict=True)
    return layout.join([e * d.unsqueeze(-1) / s for e, (d, s) in pairs])


@dataclass(frozen=True)
class NodeScales:
    """Which nodes may change sign, have positive scales, or neither: 0 or 1 in ``[N, 1]``."""

    sign: Tensor
    positive: Tensor
    fixed: Tensor

    @staticmethod
    def of(graph: ParameterGraph, scale: Scale, like: Tensor) -> NodeScales:
        """Of a graph, in the dtype and on the device of ``like``; kept on the graph."""
        dtype, device = like.dtype, like.device

        def made() -> NodeScales:
            kinds = scaled_groups(graph, scale)
            sizes = torch.tensor(blocked(graph).group_sizes)
            rows = [[float(kind == k) for kind in kinds] for k in ("sign", "positive", None)]
            nodes = torch.tensor(rows).repeat_interleave(sizes, 1).unsqueeze(-1)
            return NodeScales(*nodes.to(device, dtype))

        return kept(graph, ("scales", scale, dtype, device), made)

    @staticmethod
    def union(parts: Sequence[NodeScales]) -> NodeScales:
        """Of graphs side by side."""
        columns = zip(*((p.sign, p.positive, p.fixed) for p in parts), strict=True)
        return NodeScales(*(torch.cat(column) for column in columns))

    def canonical(self, v: Tensor, mixed: Tensor) -> Tensor:
        """What is the same for all scales of ``v`` [..., N, c] in ``mixed``, linear in it."""
        rms = v.square().mean(-1, keepdim=True)
        some = rms > 0
        inverse = torch.where(some, torch.where(some, rms, 1.0).rsqrt(), 0.0)
        return self.sign * mixed.abs() + (self.positive * inverse + self.fixed) * mixed
