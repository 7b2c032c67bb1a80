"""In which units weights are generated, and what the noise is that they begin as.

Values are divided by one number per tensor, the root mean square over the training networks, times
the root of the fan-in, so that other widths have the same units. Flat tensors ``[..., P]`` hold the
blocks of a graph one after the other, as :meth:`gmn_opt.metanet.BlockedGraph.flatten` gives them.

Networks in a shared order (fitted from one start, see `gmn_opt.generate.starts`) have a mean that
means something: they are generated as deviations from it, and noise may be drawn with the
mean and covariance of the training networks of a class. Mean and covariance are then a part of
the input: permuted along with the networks, they permute what is generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmn_opt.generate.neurons import Neurons
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
        means: ``[classes, r]`` of the networks of each class (or all, as one) in these directions.
        factors: ``[classes, r, r]`` lower triangular roots of their covariances.
        neurons: Mean and covariance of the neurons of every space, or None.
    """

    scale: dict[str, float]
    center: Tensor | None = None
    directions: Tensor | None = None
    means: Tensor | None = None
    factors: Tensor | None = None
    neurons: Neurons | None = None

    @staticmethod
    def of(
        sets: Sequence[tuple[ParameterGraph, Tensor]],
        shared_order: bool = False,
        rank: int = 0,
        labels: Tensor | None = None,
        neurons: bool = False,
    ) -> Units:
        """Of training networks ``[N, P]`` per graph.

        Args:
            sets: Graphs with their networks.
            shared_order: Whether neurons have the same order in all of them; one graph only.
            rank: How many directions of the networks' covariance noise has; 0 for white noise.
            labels: int64 ``[N]``, positions of classes: with a rank, noise is drawn per class.
            neurons: Whether neurons are white in these units; see :mod:`gmn_opt.generate.neurons`.
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
        scale = {n: max(float(torch.stack(s).mean().sqrt()), _SMALLEST) for n, s in squares.items()}
        units = Units(scale, center)
        if neurons:
            named = [(g, blocked(g).unflatten(units.into(g, flat))) for g, flat in sets]
            units.neurons = Neurons.of(named)
        if shared_order and rank:
            graph, flat = sets[0]
            values = units.into(graph, flat)
            _, s, v = torch.linalg.svd(values - values.mean(0), full_matrices=False)
            r = min(rank, int((s > s[0] * 1e-6).sum()))
            units.directions = v[:r].clone(memory_format=torch.contiguous_format)
            units.means, units.factors = _gaussians(values @ units.directions.mT, labels)
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
        values = known / self._row(graph, flat)
        if self.neurons is None:
            return values
        layout = blocked(graph)
        return layout.flatten(self.neurons.whiten(graph, layout.unflatten(values)))

    def back(self, graph: ParameterGraph, values: Tensor) -> Tensor:
        """The inverse of :meth:`into`."""
        flat = self.colored(graph, values) * self._row(graph, values)
        return flat if self.center is None else flat + self.center.to(flat)

    def colored(self, graph: ParameterGraph, values: Tensor, shift: bool = True) -> Tensor:
        """``[B, P]`` in units of tensors alone; without ``shift``, of differences of networks."""
        if self.neurons is None:
            return values
        layout = blocked(graph)
        return layout.flatten(self.neurons.color(graph, layout.unflatten(values), shift))

    def center_in_units(self, graph: ParameterGraph, like: Tensor) -> Tensor | None:
        """``[P]`` the mean network, each tensor at a root mean square of 1."""
        if self.center is None:
            return None
        parts = self.center.to(like).split(blocked(graph).edge_counts)
        return torch.cat([p / p.square().mean().sqrt().clamp_min(_SMALLEST) for p in parts])

    def noise(
        self,
        graph: ParameterGraph,
        count: int,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """``[count, P]`` of what generation begins with, in units; float32.

        ``labels`` [count] are positions of classes, where noise is drawn per class.
        """
        if self.directions is None or self.means is None or self.factors is None:
            size = sum(blocked(graph).edge_counts)
            return torch.randn(count, size, generator=generator)
        drawn = torch.randn(count, len(self.directions), generator=generator)
        at = torch.zeros(count, dtype=torch.int64) if labels is None else labels
        turned = (self.factors.float()[at] @ drawn.unsqueeze(-1)).squeeze(-1)
        return (self.means.float()[at] + turned) @ self.directions.float()

    def mean(self, like: Tensor, one_hot: Tensor) -> Tensor | float:
        """``[B, P]``: the mean of the noise of every network, by its class ``[B, classes]``."""
        if self.directions is None or self.means is None:
            return 0.0
        means = self.means.to(like)
        return (one_hot @ means if len(means) > 1 else means) @ self.directions.to(like)

    def coordinates(self, values: Tensor) -> Tensor | None:
        """``[..., r]``: how far ``[..., P]`` goes in each direction; None where there are none."""
        return None if self.directions is None else values @ self.directions.to(values).mT

    def within(self, values: Tensor) -> Tensor:
        """What of ``[..., P]`` lies in the directions; all of it where there are none."""
        if self.directions is None:
            return values
        v = self.directions.to(values)
        return (values @ v.mT) @ v


def _gaussians(points: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Means ``[classes, r]`` and roots of covariances ``[classes, r, r]`` of points ``[N, r]``."""
    labels = torch.zeros(len(points), dtype=torch.int64) if labels is None else labels
    means, factors = [], []
    for label in range(int(labels.max()) + 1):
        some = points[labels == label].double()
        covariance = some.T.cov(correction=0)
        floor = 1e-6 * points.double().square().mean()
        covariance += floor * torch.eye(covariance.shape[0], dtype=torch.float64)
        means.append(some.mean(0))
        factors.append(torch.linalg.cholesky(covariance))
    return torch.stack(means).to(points), torch.stack(factors).to(points)


def stacked(networks: Mapping[str, Tensor], graph: ParameterGraph) -> Tensor:
    """``{name: [N, *shape]}`` as ``[N, P]``, float32."""
    layout = blocked(graph)
    return layout.flatten({n: networks[n].detach().float().cpu() for n in graph.shapes})


__all__ = ["Units", "stacked"]
