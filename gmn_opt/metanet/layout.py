"""How the blocks of a parameter graph lie in memory during blocked message passing.

A block is brought to the dense form ``[..., D, E]``: ``D`` destination nodes by ``E = S * K``
incoming edges per node (``S`` source nodes, ``K`` parallel edges, source-major). Node states are
``[..., N, c]``. Leading dimensions batch networks that share the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from gmn_opt.graph import Block, ParameterGraph


def _axis(dim: int, position: int) -> str:
    return f"a{dim}_{position}"


@dataclass(frozen=True)
class Endpoint:
    """How one end of a block sees the nodes of its group.

    The block runs over the factors at positions ``kept`` of the group's ``sizes``; a block that
    lacks some of them (one scale per head, say) sees the mean over the missing ones.
    """

    group: int
    sizes: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of nodes as the block sees them."""
        return prod(self.sizes[i] for i in self.kept)

    @property
    def is_whole(self) -> bool:
        """Whether the block runs over every node of the group."""
        return self.kept == tuple(range(len(self.sizes)))

    def read(self, nodes: Tensor) -> Tensor:
        """Node states ``[..., N, c]`` as the block sees them, ``[..., size, c]``."""
        if self.is_whole:
            return nodes
        missing = [i - len(self.sizes) - 1 for i in range(len(self.sizes)) if i not in self.kept]
        spread = nodes.unflatten(-2, self.sizes or (1,))
        lead = nodes.dim() - 2
        return spread.mean(missing).flatten(lead, -2) if self.kept else spread.mean(missing)[
            ..., None, :
        ]

    def write(self, seen: Tensor) -> Tensor:
        """The transpose of :meth:`read`: ``[..., size, c]`` spread over the nodes ``[..., N, c]``."""
        if self.is_whole:
            return seen
        lead = seen.dim() - 2
        shape = [self.sizes[i] if i in self.kept else 1 for i in range(len(self.sizes))]
        full = seen.unflatten(-2, shape).expand(
            *seen.shape[:lead], *self.sizes, seen.shape[-1]
        )
        return full.flatten(lead, -2)


@dataclass(frozen=True)
class BlockLayout:
    """One block, ready to be read from and written to a tensor."""

    block: Block
    tensor_shape: tuple[int, ...]
    pattern: str
    inverse: str
    axis_sizes: dict[str, int]
    dst: Endpoint
    src: Endpoint
    kernel: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        """``(D, S, K)``."""
        return self.dst.size, self.src.size, prod(self.kernel)

    @property
    def is_whole(self) -> bool:
        """Whether the block is its entire tensor."""
        return self.block.shape == self.tensor_shape

    @property
    def fan_in(self) -> int:
        """Incoming edges per destination node."""
        return self.src.size * prod(self.kernel)

    def to_edges(self, tensor: Tensor) -> Tensor:
        """``[..., *tensor_shape]`` to ``[..., D, E]``."""
        if not self.is_whole:
            tensor = tensor[(..., *(slice(r.start, r.stop, r.step) for r in self.block.index))]
        return rearrange(tensor, self.pattern, **self.axis_sizes)

    def from_edges(self, edges: Tensor) -> Tensor:
        """``[..., D, E]`` back to the block's slice of the tensor, ``[..., *block.shape]``."""
        return rearrange(edges, self.inverse, **self.axis_sizes)

    def spread_src(self, nodes: Tensor) -> Tensor:
        """Source states ``[..., S, c]`` repeated over parallel edges, ``[..., E, c]``."""
        kernel = prod(self.kernel)
        return nodes if kernel == 1 else nodes.repeat_interleave(kernel, -2)

    def pool_src(self, edges: Tensor) -> Tensor:
        """``[..., E, c]`` averaged over parallel edges, ``[..., S, c]``."""
        kernel = prod(self.kernel)
        return edges if kernel == 1 else edges.unflatten(-2, (-1, kernel)).mean(-2)


def _block_layout(graph: ParameterGraph, block: Block) -> BlockLayout:
    size_of = {f.id: f.size for f in graph.factors}
    where: dict[str, list[tuple[int, str]]] = {"dst": [], "src": [], "kernel": []}
    sizes: dict[str, int] = {}
    dims = []
    for d, (factors, roles) in enumerate(zip(block.dims, block.roles, strict=True)):
        names = []
        for p, (factor, role) in enumerate(zip(factors, roles, strict=True)):
            name = _axis(d, p)
            names.append(name)
            sizes[name] = size_of[factor]
            where[role].append((factor, name))
        dims.append("(" + " ".join(names) + ")")

    ends = {}
    for role, group_id in (("dst", block.dst), ("src", block.src)):
        order = graph.groups[group_id].factors
        where[role].sort(key=lambda pair: order.index(pair[0]))
        ends[role] = Endpoint(
            group_id,
            tuple(size_of[f] for f in order),
            tuple(order.index(f) for f, _ in where[role]),
        )
    left = "... " + " ".join(dims)
    rows = " ".join(name for _, name in where["dst"])
    columns = " ".join(name for _, name in where["src"] + where["kernel"])
    right = f"... ({rows}) ({columns})"
    return BlockLayout(
        block,
        graph.shapes[block.tensor],
        f"{left} -> {right}",
        f"{right} -> {left}",
        sizes,
        ends["dst"],
        ends["src"],
        tuple(size_of[f] for f, _ in where["kernel"]),
    )


class BlockedGraph:
    """All layouts of a graph and the way from named tensors to edge blocks and back."""

    def __init__(self, graph: ParameterGraph) -> None:
        self.graph = graph
        self.blocks = tuple(_block_layout(graph, block) for block in graph.blocks)
        self.names = tuple(graph.shapes)

    @cached_property
    def blocks_of(self) -> dict[str, list[int]]:
        """Indices of the blocks of every tensor."""
        found: dict[str, list[int]] = {name: [] for name in self.names}
        for i, layout in enumerate(self.blocks):
            found[layout.block.tensor].append(i)
        return found

    @cached_property
    def group_sizes(self) -> tuple[int, ...]:
        """Number of nodes per group."""
        size_of = {f.id: f.size for f in self.graph.factors}
        return tuple(prod(size_of[f] for f in g.factors) for g in self.graph.groups)

    def check(self, tensors: Mapping[str, Tensor], features: int = 0) -> None:
        """Raise ValueError unless ``tensors`` has the graph's names and shapes.

        With ``features`` > 0 each tensor must end in that many feature channels.
        """
        tail = (features,) if features else ()
        missing = [n for n in self.names if n not in tensors]
        extra = [n for n in tensors if n not in self.graph.shapes]
        if missing or extra:
            raise ValueError(
                f"The tensors do not match the graph: missing {missing[:5]}, "
                f"unexpected {extra[:5]}. Pass one tensor per parameter of the traced model."
            )
        for name, shape in self.graph.shapes.items():
            want = (*shape, *tail)
            got = tuple(tensors[name].shape)
            if got[len(got) - len(want) :] != want:
                raise ValueError(
                    f"{name}: expected shape [..., {', '.join(map(str, want))}], received "
                    f"{list(got)}. Leading dimensions may batch networks; the last ones are "
                    f"the parameter's shape{' and its features' if features else ''}."
                )

    @cached_property
    def edge_counts(self) -> tuple[int, ...]:
        """Number of edges per block."""
        return tuple(b.dst.size * b.fan_in for b in self.blocks)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Named tensors ``[..., *shape]`` to one ``[..., P]``, block after block."""
        return torch.cat([e.flatten(-2) for e in self.split(tensors)], -1)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """The inverse of :meth:`flatten`."""
        return self.join(self.blocks_of_flat(flat))

    def blocks_of_flat(self, flat: Tensor) -> list[Tensor]:
        """``[..., P]`` as one view ``[..., D, E]`` per block."""
        parts = flat.split(self.edge_counts, -1)
        return [
            part.unflatten(-1, (block.dst.size, block.fan_in))
            for part, block in zip(parts, self.blocks, strict=True)
        ]

    def split(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """Named tensors ``[..., *shape]`` to one ``[..., D, E]`` per block."""
        return [layout.to_edges(tensors[layout.block.tensor]) for layout in self.blocks]

    def join(self, edges: Sequence[Tensor]) -> dict[str, Tensor]:
        """One ``[..., D, E]`` per block back to named tensors ``[..., *shape]``."""
        out: dict[str, Tensor] = {}
        for name, indices in self.blocks_of.items():
            pieces = [self.blocks[i].from_edges(edges[i]) for i in indices]
            if len(indices) == 1 and self.blocks[indices[0]].is_whole:
                out[name] = pieces[0]
                continue
            shape = self.graph.shapes[name]
            lead = pieces[0].shape[: pieces[0].dim() - len(shape)]
            full = pieces[0].new_zeros(*lead, *shape)
            for i, piece in zip(indices, pieces, strict=True):
                where = tuple(slice(r.start, r.stop, r.step) for r in self.blocks[i].block.index)
                full[(..., *where)] = piece
            out[name] = full
        return out


_CACHE = "_blocked_graph"


def blocked(graph: ParameterGraph) -> BlockedGraph:
    """The layout of ``graph``, made once and kept on the graph."""
    layout = graph.__dict__.get(_CACHE)
    if layout is None:
        layout = BlockedGraph(graph)
        object.__setattr__(graph, _CACHE, layout)
    return layout


__all__ = ["BlockLayout", "BlockedGraph", "Endpoint", "blocked"]
