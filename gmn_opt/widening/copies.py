"""Where the indices of a widened space go in the axes of a graph's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from gmn_opt.graph import Block, ParameterGraph

Index = range | tuple[int, ...]
#: Of every new index of an axis, the old index that it is a copy of.
Take = list[int]


class WidenError(ValueError):
    """The model cannot be widened in this way; the message says why, and what to do."""


def copies_of(size: int, wide: int) -> Tensor:
    """Of every new index, the old one that it copies; copies stand side by side, int64 ``[wide]``.

    Where ``wide`` is no multiple of ``size``, the first indices have one copy more.
    """
    counts = torch.full((size,), wide // size)
    counts[: wide % size] += 1
    return torch.arange(size).repeat_interleave(counts)


@dataclass(frozen=True)
class _Place:
    """Where one old index of an axis belongs: its index in the space, and its chunk of the axis.

    All indices of the axis in ``[start, start + period)`` have the same index in the space.
    """

    index: int
    start: int


def widened_axes(
    graph: ParameterGraph, space: int, copies: Tensor
) -> tuple[ParameterGraph, dict[str, list[Take | None]]]:
    """The graph with a space widened, and per tensor and axis what is copied from where.

    An axis is widened chunk by chunk, so that nested axes stay nested: of ``(h d)``, a new head
    comes with all its dims; of packed ``(h (q k v d))``, with its query, key and value.

    Raises:
        WidenError: An axis has the space twice, or its parts contradict each other.
    """
    wide = len(copies)
    counts = copies.bincount(minlength=graph.factors[space].size).tolist()
    every = (*graph.blocks, *graph.buffer_blocks)
    takes: dict[str, list[Take | None]] = {}
    moved: dict[tuple[str, int], dict[tuple[int, int], int]] = {}
    lengths: dict[str, list[int]] = {}
    for block in every:
        found = lengths.setdefault(block.tensor, [0] * len(block.index))
        for d, index in enumerate(block.index):
            found[d] = max(found[d], max(index, default=-1) + 1)
    for name, sizes in lengths.items():
        blocks = [b for b in every if b.tensor == name]
        takes[name] = []
        for d, length in enumerate(sizes):
            places = _places(graph, blocks, d, space)
            take, where = _order(length, places, counts)
            takes[name].append(take if places else None)
            moved[name, d] = where
    factors = tuple(replace(f, size=wide) if f.id == space else f for f in graph.factors)
    first = [sum(counts[:i]) for i in range(len(counts))]
    new = [
        [_widened_block(graph, b, space, copies, first, moved) for b in blocks]
        for blocks in (graph.blocks, graph.buffer_blocks)
    ]
    shapes = {
        name: tuple(
            n if take is None else len(take)
            for n, take in zip(shape, takes.get(name, [None] * len(shape)), strict=True)
        )
        for name, shape in graph.shapes.items()
    }
    changed = replace(
        graph, factors=factors, blocks=tuple(new[0]), buffer_blocks=tuple(new[1]), shapes=shapes
    )
    return changed, {n: t for n, t in takes.items() if any(x is not None for x in t)}


def _places(
    graph: ParameterGraph, blocks: Sequence[Block], d: int, space: int
) -> dict[int, _Place]:
    """The places of those indices of an axis that lie along the space."""
    places: dict[int, _Place] = {}
    fixed: set[int] = set()
    for block in blocks:
        legs, index = block.dims[d], block.index[d]
        if legs.count(space) > 1:
            raise WidenError(f"{block.tensor!r} has this space twice in one axis.")
        if space not in legs:
            fixed.update(index)
            continue
        at = legs.index(space)
        inner = prod(graph.factors[f].size for f in legs[at + 1 :])
        size = graph.factors[space].size
        stride = index[inner] - index[0]
        for position, old in enumerate(index):
            if stride == inner:
                start = old - (index[position] - index[position - position % inner])
            else:
                start = old // stride * stride
            place = _Place(position // inner % size, start)
            if places.setdefault(old, place) != place:
                raise WidenError(f"The parts of {block.tensor!r} differ along axis {d}.")
    if fixed & places.keys():
        raise WidenError(f"Axis {d} of {blocks[0].tensor!r} lies along this space only in parts.")
    return places


def _order(
    length: int, places: dict[int, _Place], counts: Sequence[int]
) -> tuple[Take, dict[tuple[int, int], int]]:
    """The old index of every new one, and where copy ``c`` of an old index stands."""
    keys: list[tuple[int, int, int]] = []
    for old in range(length):
        place = places.get(old)
        if place is None:
            keys.append((old, 0, old))
        else:
            keys += [(place.start, c, old) for c in range(counts[place.index])]
    keys.sort()
    where = {(old, c): new for new, (_, c, old) in enumerate(keys)}
    return [old for _, _, old in keys], where


def _widened_block(
    graph: ParameterGraph,
    block: Block,
    space: int,
    copies: Tensor,
    first: Sequence[int],
    moved: dict[tuple[str, int], dict[tuple[int, int], int]],
) -> Block:
    """A block with the index sets that it has after widening."""
    index: list[Index] = []
    for d, (old, legs) in enumerate(zip(block.index, block.dims, strict=True)):
        where = moved[block.tensor, d]
        if space not in legs:
            index.append(_run([where[o, 0] for o in old]))
            continue
        at = legs.index(space)
        inner = prod(graph.factors[f].size for f in legs[at + 1 :])
        outer = prod(graph.factors[f].size for f in legs[:at])
        size = graph.factors[space].size
        found = []
        for a in range(outer):
            for new, i in enumerate(copies.tolist()):
                for b in range(inner):
                    found.append(where[old[(a * size + i) * inner + b], new - first[i]])
        index.append(_run(found))
    ratio = len(copies) / graph.factors[space].size
    attributes = dict(block.attributes)
    roles = {
        r
        for fs, rs in zip(block.dims, block.roles, strict=True)
        for f, r in zip(fs, rs, strict=True)
        if f == space
    }
    for name, role in (("fan_in", "src"), ("fan_out", "dst")):
        if name in attributes and role in roles:
            attributes[name] = round(attributes[name] * ratio)
    if groups_along(graph, block, space):
        attributes["groups"] = round(attributes["groups"] * ratio)
    return replace(block, index=tuple(index), attributes=attributes)


def groups_along(graph: ParameterGraph, block: Block, space: int) -> bool:
    """Whether the space is what a grouped convolution's groups are counted by."""
    if block.attributes.get("groups", 1) == 1 or space not in graph.groups[block.src].factors:
        return False
    return not any(
        f == space and r == "src"
        for fs, rs in zip(block.dims, block.roles, strict=True)
        for f, r in zip(fs, rs, strict=True)
    )


def _run(index: Sequence[int]) -> Index:
    """A range where the numbers are one."""
    step = index[1] - index[0] if len(index) > 1 else 1
    if step > 0 and all(b - a == step for a, b in pairwise(index)):
        return range(index[0], index[-1] + 1, step) if index else range(0)
    return tuple(index)


__all__ = ["WidenError", "copies_of", "groups_along", "widened_axes"]
