"""Widening as a map of tensors: weights, statistics, gradients' moments.

Neurons are duplicated (Net2Net; Chen, Goodfellow and Shlens 2016, arXiv 1511.05641, section 2.3):
what leads to a neuron is copied, what leads away from it is divided by the number of copies. The
gradient of the loss goes the other way: a copy's incoming weights get their share of it, and the
weights that lead away get all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gmn_opt.graph import Block, ParameterGraph
from gmn_opt.graph.symmetry import indexer
from gmn_opt.widening.copies import Take, copies_of, widened_axes

#: How the sum over a space that no parameter weighs is kept as it was.
Gain = Literal["none", "mean", "scaled"]


@dataclass(frozen=True)
class Growth:
    """One space of a graph made wider.

    Attributes:
        before: The graph as it was.
        space: Id of the space.
        size: Its new size.
        gain: What the incoming weights of one side are multiplied by where two activations are
            contracted along the space (queries and keys): nothing; 1 / copies (*mean*); or the
            same, when the model divides by the square root of the size (*scaled*).
    """

    before: ParameterGraph
    space: int
    size: int
    gain: Gain = "none"

    @cached_property
    def copies(self) -> Tensor:
        """Of every new index, the old one, int64 ``[size]``."""
        return copies_of(self.before.factors[self.space].size, self.size)

    @cached_property
    def _axes(self) -> tuple[ParameterGraph, dict[str, list[Take | None]]]:
        return widened_axes(self.before, self.space, self.copies)

    @property
    def graph(self) -> ParameterGraph:
        """The graph of the widened network; the same factors, one of them larger."""
        return self._axes[0]

    @property
    def takes(self) -> dict[str, list[Take | None]]:
        """Per tensor and axis, the old index of every new one; None where an axis stays."""
        return self._axes[1]

    @cached_property
    def shares(self) -> Tensor:
        """One over the number of copies, float64 ``[size]``."""
        return 1 / self.copies.bincount()[self.copies].double()

    def weights(
        self,
        tensors: Mapping[str, Tensor],
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Parameters and running statistics of the wider network, by name.

        ``noise`` is the spread, in terms of a block's own, of random numbers added to the weights
        that lead away from copies. Over the copies of a neuron they sum to zero.
        """
        out = {}
        for name, tensor in tensors.items():
            wide = self._copied(name, tensor)
            for block in self._blocks(name):
                wide = self._scaled(wide, block, "src", self.shares)
                gain = self._gain(block)
                if gain is not None:
                    wide = self._scaled(wide, block, "dst", gain)
                if noise:
                    wide = self._disturbed(wide, block, noise, generator)
            out[name] = wide
        return out

    def moments(self, name: str, tensor: Tensor, power: int = 1) -> Tensor:
        """What an optimizer has gathered of a parameter's gradients (to this power).

        ``tensor`` may have further axes in front of the parameter's own.
        """
        wide = self._copied(name, tensor)
        for block in self._blocks(name):
            wide = self._scaled(wide, block, "dst", self.shares**power)
            gain = self._gain(block)
            if gain is not None:
                wide = self._scaled(wide, block, "dst", gain ** (-power))
        return wide

    # ------------------------------------------------------------------ parts

    def _blocks(self, name: str) -> list[Block]:
        """The blocks of a parameter, as they are in the wider graph."""
        name = self.graph.aliases.get(name, name)
        return [b for b in self.graph.blocks if b.tensor == name]

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        takes = self.takes.get(self.graph.aliases.get(name, name))
        if takes is None:
            return tensor.clone()
        lead = tensor.dim() - len(takes)
        for d, take in enumerate(takes):
            if take is not None:
                where = torch.tensor(take, device=tensor.device)
                tensor = tensor.index_select(lead + d, where)
        return tensor

    def _axes_of(self, block: Block, role: str) -> list[int]:
        """Legs of a block that run over the space in this role."""
        legs = [f for dim in block.dims for f in dim]
        roles = [r for dim in block.roles for r in dim]
        return [k for k, f in enumerate(legs) if f == self.space and roles[k] == role]

    def _scaled(self, tensor: Tensor, block: Block, role: str, factor: Tensor) -> Tensor:
        legs = self._axes_of(block, role)
        if not legs:
            return tensor
        part, place = self._part(tensor, block)
        lead = tensor.dim() - len(block.index)
        for k in legs:
            shape = [1] * part.dim()
            shape[lead + k] = -1
            part = part * factor.to(part).reshape(shape)
        return self._put(tensor, block, part, place)

    def _gain(self, block: Block) -> Tensor | None:
        if self.gain == "none" or block.dst != self._side:
            return None
        if self.gain == "mean":
            return self.shares
        return self.shares * (self.size / self.before.factors[self.space].size) ** 0.5

    @cached_property
    def _side(self) -> int | None:
        """The first group of neurons along the space."""
        return min((b.dst for b in self.graph.blocks if self._axes_of(b, "dst")), default=None)

    @property
    def weighed(self) -> bool:
        """Whether some parameter leads away from the space's neurons."""
        return any(self._axes_of(b, "src") for b in self.graph.blocks)

    def _disturbed(
        self, tensor: Tensor, block: Block, noise: float, generator: torch.Generator | None
    ) -> Tensor:
        legs = self._axes_of(block, "src")
        if not legs:
            return tensor
        part, place = self._part(tensor, block)
        spread = noise * float(part.detach().square().mean().sqrt())
        extra = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        axis, counts = legs[0], self.copies.bincount()
        total = extra.new_zeros(*extra.shape[:axis], len(counts), *extra.shape[axis + 1 :])
        total = total.index_add(axis, self.copies, extra).movedim(axis, -1) / counts
        mean = total.movedim(-1, axis).index_select(axis, self.copies)
        extra = (extra - mean) * spread
        return self._put(tensor, block, part + extra.to(part), place)

    def _part(self, tensor: Tensor, block: Block) -> tuple[Tensor, tuple[object, ...]]:
        """A block of a tensor with one axis per factor, and where it stands."""
        lead = tensor.dim() - len(block.index)
        place: tuple[object, ...] = (..., *indexer(block.index, tensor.device))
        sizes = [self.graph.factors[f].size for dim in block.dims for f in dim]
        return tensor[place].reshape(*tensor.shape[:lead], *sizes), place  # type: ignore[index]

    def _put(self, tensor: Tensor, block: Block, part: Tensor, place: tuple[object, ...]) -> Tensor:
        lead = tensor.dim() - len(block.index)
        out = tensor.clone()
        out[place] = part.reshape(*tensor.shape[:lead], *block.shape)  # type: ignore[index]
        return out


def grown_weights(
    growths: Sequence[Growth],
    tensors: Mapping[str, Tensor],
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Several spaces widened one after the other."""
    out = dict(tensors)
    for growth in growths:
        out = growth.weights(out, noise, generator)
    return out


__all__ = ["Gain", "Growth", "grown_weights"]
