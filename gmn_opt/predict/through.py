"""Through maps of networks as a few numbers each: along directions of the training networks.

Only networks with as many inputs and outputs can be compared by them; every such pair has
directions of its own, and networks of other ends get zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gmn_opt.metanet import blocked
from gmn_opt.predict.paths import COHERENCE, coherence, ends_of, through_map
from gmn_opt.predict.standardize import Standardize

if TYPE_CHECKING:
    from gmn_opt.predict.networks import Stack

DIRECTIONS = 4
#: Pairs of ends at most, the most frequent ones; networks of each that directions are taken from.
_PAIRS, _NETWORKS = 4, 1000
#: Networks whose features are made at once.
_CHUNK = 256


@dataclass(frozen=True)
class PathFeatures:
    """Of networks that share a graph: coherence ``[n, COHERENCE]``, through maps ``[n, .]``."""

    ends: tuple[int, int] | None
    coherence: Tensor
    through: Tensor

    def __getitem__(self, chosen: Tensor) -> PathFeatures:
        """Some of the networks."""
        return PathFeatures(self.ends, self.coherence[chosen], self.through[chosen])

    def to(self, device: torch.device) -> PathFeatures:
        """The same there."""
        return PathFeatures(self.ends, self.coherence.to(device), self.through.to(device))


def path_features(stack: Stack, dtype: torch.dtype = torch.float32) -> PathFeatures:
    """Of networks that share a graph; made in float64, since products of weights run far."""
    graph, parts = stack.graph, []
    for chosen in torch.arange(len(stack)).split(_CHUNK):
        piece = {n: t.to(torch.float64) for n, t in stack[chosen].tensors.items()}
        blocks = blocked(graph).split(piece)
        parts.append((coherence(graph, blocks).to(dtype), through_map(graph, blocks).to(dtype)))
    found = ends_of(graph)
    ends = None if found is None else (found.inputs, found.outputs)
    return PathFeatures(ends, torch.cat([c for c, _ in parts]), torch.cat([t for _, t in parts]))


def common_ends(stacks: Sequence[Stack]) -> list[list[int]]:
    """The pairs of numbers of inputs and outputs that most networks have."""
    counts: Counter[tuple[int, int]] = Counter()
    for stack in stacks:
        found = ends_of(stack.graph)
        if found is not None:
            counts[found.inputs, found.outputs] += len(stack)
    return [list(ends) for ends, _ in counts.most_common(_PAIRS)]


class PathReader(nn.Module):
    """`PathFeatures` to ``[n, width]``, standardized; everything is set once, by training networks.

    Args:
        ends: Pairs of numbers of inputs and outputs.
    """

    def __init__(self, ends: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.ends = [(int(e[0]), int(e[1])) for e in ends]
        self.coherence_width, self.through_width = COHERENCE, DIRECTIONS * len(self.ends)
        self.width = self.coherence_width + self.through_width
        for number, (inputs, outputs) in enumerate(self.ends):
            self.register_buffer(f"directions{number}", torch.zeros(DIRECTIONS, inputs * outputs))
        self.coherence_scale = Standardize(COHERENCE)
        self.through_scale = Standardize(self.through_width)

    @torch.no_grad()
    def set_from(self, features: Sequence[PathFeatures]) -> None:
        """Directions and normalization; the largest singular vectors of the maps, uncentred."""
        for number, ends in enumerate(self.ends):
            found = [f.through for f in features if f.ends == ends]
            if not found:
                continue
            maps = torch.cat(found)
            maps = maps[:: max(1, len(maps) // _NETWORKS)].double()
            # by the smaller Gram matrix: there are fewer networks than elements, mostly
            _, left = torch.linalg.eigh(maps @ maps.mT)
            top = left[:, -DIRECTIONS:].flip(1).mT @ maps
            top = top / top.norm(dim=1, keepdim=True).clamp_min(1e-12)
            self._directions(number)[: len(top)] = top
        self.coherence_scale.set_from(torch.cat([f.coherence for f in features]))
        if self.ends:
            self.through_scale.set_from(torch.cat([self._along(f) for f in features]))

    def _directions(self, number: int) -> Tensor:
        found: Tensor = getattr(self, f"directions{number}")
        return found

    def _along(self, f: PathFeatures) -> Tensor:
        out = f.coherence.new_zeros(len(f.coherence), self.through_width)
        if f.ends in self.ends:
            number = self.ends.index(f.ends)
            first = number * DIRECTIONS
            out[:, first : first + DIRECTIONS] = f.through @ self._directions(number).mT
        return out

    def forward(self, f: PathFeatures) -> Tensor:
        """``[n, width]``: coherence, then what lies along the directions."""
        return torch.cat(
            [self.coherence_scale(f.coherence), self.through_scale(self._along(f))], -1
        )
