"""In which units weights are generated, and what the noise is that they begin as.

Values are divided by one number per tensor, the root mean square over the training networks, times
the root of the fan-in, so that other widths have the same units. Flat tensors ``[..., P]`` hold the
blocks of a graph one after the other, as :meth:`gmn_opt.metanet.BlockedGraph.flatten` gives them.

Networks in a shared order (fitted from one start, see `gmn_opt.generate.starts`) have a mean that
means something: they are generated as deviations from it, and noise may be drawn with the
covariance of the training networks. Mean and covariance are then a part of the input: permuted
along with the networks, they permute what is generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked

_SMALLEST = 1e-8


@dataclass
class Units:
    """Between weights and what is generated.

    Attributes:
        scale: By name of a tensor, its unit at a fan-in of 1.
        center: ``[P]`` the mean of the training networks, or None.
        directions: ``[r, P]`` orthonormal in units, or None: where training networks differ.
        spread: ``[r]`` their standard deviations in these directions.
    """

    scale: dict[str, float]
    center: Tensor | None = None
    directions: Tensor | None = None
    spread: Tensor | None = None

    @staticmethod
    def of(
        sets: Sequence[tuple[ParameterGraph, Tensor]], shared_order: bool = False, rank: int = 0
    ) -> Units:
        """Of training networks ``[N, P]`` per graph.

        Args:
            sets: Graphs with their networks.
            shared_order: Whether neurons have the same order in all of them; one graph only.
            rank: How many directions of the networks' covariance noise has; 0 for white noise.
        """
        center = sets[0][1].mean(0) if shared_order else None
        squares: dict[str, list[Tensor]] = {}
        for graph, flat in sets:
            known = flat if center is None else flat - center
            for layout, part in zip(
                blocked(graph).blocks, known.split(blocked(graph).edge_counts, -1), strict=True
            ):
                square = part.double().square().mean() * layout.fan_in
                squares.setdefault(layout.block.tensor, []).append(square)
        scale = {
            n: max(float(torch.stack(s).mean().sqrt()), _SMALLEST) for n, s in squares.items()
        }
        units = Units(scale, center)
        if shared_order and rank:
            graph, flat = sets[0]
            values = units.into(graph, flat)
            _, s, v = torch.linalg.svd(values - values.mean(0), full_matrices=False)
            r = min(rank, int((s > s[0] * 1e-6).sum()))
            units.directions, units.spread = v[:r].clone(), s[:r] / len(values) ** 0.5
        return units

    def _row(self, graph: ParameterGraph, like: Tensor) -> Tensor:
        """``[P]``: the unit of every value."""
        rows = [
            torch.full((n,), self.scale[b.block.tensor] / b.fan_in**0.5)
            for b, n in zip(blocked(graph).blocks, blocked(graph).edge_counts, strict=True)
        ]
        return torch.cat(rows).to(like)

    def into(self, graph: ParameterGraph, flat: Tensor) -> Tensor:
        """Weights ``[..., P]`` in units."""
        known = flat if self.center is None else flat - self.center.to(flat)
        return known / self._row(graph, flat)

    def back(self, graph: ParameterGraph, values: Tensor) -> Tensor:
        """The inverse of :meth:`into`."""
        flat = values * self._row(graph, values)
        return flat if self.center is None else flat + self.center.to(flat)

    def center_in_units(self, graph: ParameterGraph, like: Tensor) -> Tensor | None:
        """``[P]`` the mean network, each tensor at a root mean square of 1."""
        if self.center is None:
            return None
        parts = self.center.to(like).split(blocked(graph).edge_counts)
        return torch.cat([p / p.square().mean().sqrt().clamp_min(_SMALLEST) for p in parts])

    def noise(
        self, graph: ParameterGraph, count: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """``[count, P]`` of what generation begins with, in units; float32."""
        if self.directions is None or self.spread is None:
            size = sum(blocked(graph).edge_counts)
            return torch.randn(count, size, generator=generator)
        drawn = torch.randn(count, len(self.spread), generator=generator)
        return (drawn * self.spread.float()) @ self.directions.float()

    def within(self, values: Tensor) -> Tensor:
        """What of ``[..., P]`` lies in the directions; all of it where there are none."""
        if self.directions is None:
            return values
        v = self.directions.to(values)
        return (values @ v.mT) @ v


def stacked(networks: Mapping[str, Tensor], graph: ParameterGraph) -> Tensor:
    """``{name: [N, *shape]}`` as ``[N, P]``, float32."""
    layout = blocked(graph)
    return layout.flatten({n: networks[n].detach().float().cpu() for n in graph.shapes})


__all__ = ["Units", "stacked"]
