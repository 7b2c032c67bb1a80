"""Symmetries of a parameter graph: permutations that leave the network's function as it is."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from gmn_opt.graph.structure import Block, BlockGraph


class Symmetry:
    """A choice of permutation for every space of a graph.

    ``permutations[f]`` has the sizes of the parents of factor ``f`` and then its own: an entry
    says which old index moves to this new one, ``new[h, d] = old[p[h], s[h, d]]``. Spaces that
    are not listed stay in place.
    """

    def __init__(self, graph: BlockGraph, permutations: Mapping[int, Tensor]) -> None:
        self.graph = graph
        self.permutations = dict(permutations)

    @classmethod
    def random(
        cls, graph: BlockGraph, generator: torch.Generator | None = None, moving: bool = False
    ) -> Symmetry:
        """A uniformly drawn symmetry; if ``moving``, of those in which every row moves."""
        chosen = {}
        for space in graph.spaces:
            lead = [graph.factors[p].size for p in space.parents]
            rows = [_drawn(space.size, generator, moving) for _ in range(prod(lead))]
            chosen[space.id] = torch.stack(rows).reshape(*lead, space.size)
        return cls(graph, chosen)

    @classmethod
    def identity(cls, graph: BlockGraph) -> Symmetry:
        """The symmetry that moves nothing."""
        return cls(graph, {})

    def only(self, *spaces: int) -> Symmetry:
        """The same permutations of the given factors, the identity elsewhere."""
        return Symmetry(self.graph, {f: p for f, p in self.permutations.items() if f in spaces})

    def _full(self, factor: int) -> Tensor:
        """The permutation of a factor, with the identity written out."""
        if factor in self.permutations:
            return self.permutations[factor]
        info = self.graph.factors[factor]
        lead = [self.graph.factors[p].size for p in info.parents]
        return torch.arange(info.size).expand(*lead, info.size)

    def _old_parents(self, factor: int) -> tuple[Tensor, ...]:
        """Old indices of a factor's parents, on the grid of their new indices (one more dim)."""
        parents = self.graph.factors[factor].parents
        sizes = [self.graph.factors[p].size for p in parents]
        grid = dict(zip(parents, _grids([*sizes, 1]), strict=False))
        old = []
        for p in parents:
            above = [grid[q] for q in self.graph.factors[p].parents]
            old.append(self._full(p)[(*above, grid[p])])
        return tuple(old)

    def __matmul__(self, first: Symmetry) -> Symmetry:
        """Apply ``first``, then this one."""
        if first.graph is not self.graph and first.graph != self.graph:
            raise ValueError("These symmetries belong to different graphs")
        out = {}
        for f in self.permutations.keys() | first.permutations.keys():
            out[f] = first._full(f)[(*self._old_parents(f), self._full(f))]
        return Symmetry(self.graph, out)

    def inverse(self) -> Symmetry:
        """The symmetry that undoes this one."""
        undo = Symmetry(self.graph, {})
        order = sorted(self.permutations, key=lambda f: len(self.graph.factors[f].parents))
        for f in order:
            # Rows of the inverse are indexed by where this symmetry takes the parents from.
            own = self._full(f)[undo._old_parents(f)]
            if own.dim() > self._full(f).dim():
                own = own.squeeze(-2)
            undo.permutations[f] = own.argsort(-1)
        return undo

    def apply(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Permute tensors by parameter or running-statistic name.

        Works for state dicts, gradients, and optimizer state: a value may be a tensor with any
        leading batch dims, or a mapping whose tensors of the parameter's shape are permuted.
        Names that the graph does not know are returned as they are.
        """
        known: dict[str, list[Block]] = {}
        for block in (*self.graph.blocks, *self.graph.buffer_blocks):
            known.setdefault(block.tensor, []).append(block)
        out: dict[str, Any] = {}
        for name, value in tensors.items():
            blocks = known.get(self.graph.aliases.get(name, name))
            out[name] = value if blocks is None else self._apply_any(name, value, blocks)
        return out

    def _apply_any(self, name: str, value: Any, blocks: list[Block]) -> Any:
        shape = tuple(max(max(b.index[d], default=-1) for b in blocks) + 1
                      for d in range(len(blocks[0].index)))  # fmt: skip
        if isinstance(value, Mapping):
            return {
                k: self._apply_tensor(v, blocks, shape)
                if isinstance(v, Tensor) and _ends_with(v, shape) and v.dim() >= len(shape) > 0
                else v
                for k, v in value.items()
            }
        if not isinstance(value, Tensor):
            return value
        if not _ends_with(value, shape):
            raise ValueError(
                f"{name!r}: expected shape [..., {', '.join(map(str, shape))}], received "
                f"{list(value.shape)}. Pass tensors of the traced model."
            )
        return self._apply_tensor(value, blocks, shape)

    def _apply_tensor(self, tensor: Tensor, blocks: list[Block], shape: tuple[int, ...]) -> Tensor:
        if not shape or tensor.numel() == 0:
            return tensor
        out = tensor
        lead = tensor.dim() - len(shape)
        fresh = False
        for block in blocks:
            if not any(f in self.permutations for dim in block.dims for f in dim):
                continue
            if block.shape == shape:
                return self._move(tensor, block, lead)
            if not fresh:
                out, fresh = tensor.clone(), True
            at = indexer(block.index, tensor.device)
            out[(..., *at)] = self._move(tensor[(..., *at)], block, lead)
        return out

    def _move(self, tensor: Tensor, block: Block, lead: int) -> Tensor:
        legs = [f for dim in block.dims for f in dim]
        sizes = [self.graph.factors[f].size for f in legs]
        full = tensor.reshape(*tensor.shape[:lead], *sizes)
        dims = [d for d, dim in enumerate(block.dims) for _ in dim]
        if all(not self.graph.factors[f].parents for f in legs if f in self.permutations):
            for k, f in enumerate(legs):
                if f in self.permutations:
                    full = full.index_select(lead + k, self.permutations[f].to(tensor.device))
            return full.reshape(tensor.shape)
        grids = _grids(sizes)
        where: list[Tensor] = []
        for k, f in enumerate(legs):
            above = [grids[_nearest(legs, dims, k, p)] for p in self.graph.factors[f].parents]
            if f in self.permutations:
                where.append(self.permutations[f][(*above, grids[k])].to(tensor.device))
            else:
                where.append(grids[k].to(tensor.device))
        place: tuple[Any, ...] = (..., *where)
        return full[place].reshape(tensor.shape)

    def __repr__(self) -> str:
        return f"Symmetry({len(self.permutations)} of {len(self.graph.spaces)} spaces)"


def _drawn(size: int, generator: torch.Generator | None, moving: bool) -> Tensor:
    """A permutation, other than the identity if it has to move something."""
    order = torch.arange(size)
    while True:
        drawn = torch.randperm(size, generator=generator)
        if not moving or not torch.equal(drawn, order):
            return drawn


def _grids(sizes: list[int]) -> list[Tensor]:
    """Open index grids, one per size, that broadcast together."""
    n = len(sizes)
    return [torch.arange(s).reshape([-1 if i == k else 1 for i in range(n)])
            for k, s in enumerate(sizes)]  # fmt: skip


def _nearest(legs: list[int], dims: list[int], k: int, parent: int) -> int:
    """Position of the parent that belongs to leg ``k``: in the same dim if there is one."""
    found = [i for i, f in enumerate(legs) if f == parent]
    return min(found, key=lambda i: (dims[i] != dims[k], abs(i - k)))


def _ends_with(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return tensor.dim() >= len(shape) and tuple(tensor.shape[tensor.dim() - len(shape) :]) == shape


def indexer(index: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """Index sets as slices where they are runs, otherwise as open grids of integers."""
    if all(isinstance(r, range) for r in index):
        return tuple(slice(r.start, r.stop, r.step) for r in index)
    n = len(index)
    return tuple(
        torch.tensor(list(r), device=device).reshape([-1 if i == d else 1 for i in range(n)])
        for d, r in enumerate(index)
    )
