"""How the blocks of a parameter graph lie in memory during blocked message passing.

A block is brought to the dense form ``[..., D, E]``: ``D`` destination nodes by ``E = S * K``
incoming edges per node (``S`` source nodes, ``K`` parallel edges, source-major). Node states are
``[..., N]`` per channel. Leading dimensions batch networks that share the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from gmn_opt.graph.edges import ancestors
from gmn_opt.graph.symmetry import indexer
from gmn_opt.metanet.kept import kept

if TYPE_CHECKING:
    from gmn_opt.graph import Block, ParameterGraph


#: ``(D, E)`` of every block.
Sizes = tuple[tuple[int, int], ...]


def _axis(dim: int, position: int) -> str:
    return f"a{dim}_{position}"


@dataclass(frozen=True)
class Endpoint:
    """How one end of a block sees the nodes of its group.

    The block runs over the factors at positions ``kept`` of the group's ``sizes``, at one fixed
    index of those in ``at`` (position, index); of the remaining ones (one scale per head, say) it
    sees the mean.
    """

    group: int
    sizes: tuple[int, ...]
    kept: tuple[int, ...]
    at: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        """Number of nodes as the block sees them."""
        return prod([self.sizes[i] for i in self.kept])

    @property
    def is_whole(self) -> bool:
        """Whether the block sees every node of the group by itself."""
        return self.kept == tuple(range(len(self.sizes)))

    def places(self) -> Tensor:
        """``[N]``: under which index the block sees a node of the group; -1 if it does not."""
        index = torch.unravel_index(torch.arange(prod(self.sizes)), self.sizes or (1,))
        found = torch.zeros_like(index[0])
        for i in self.kept:
            found = found * self.sizes[i] + index[i]
        for i, only in self.at:
            found = torch.where(index[i] == only, found, -1)
        return found


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
    kernel_fixed: tuple[bool, ...]

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

    def where(self, device: torch.device) -> tuple[Any, ...]:
        """Index of the block's slice in its tensor, behind any leading dimensions."""
        return (..., *indexer(self.block.index, device))

    def to_edges(self, tensor: Tensor) -> Tensor:
        """``[..., *tensor_shape]`` to ``[..., D, E]``."""
        return self.arrange(tensor if self.is_whole else tensor[self.where(tensor.device)])

    def arrange(self, piece: Tensor) -> Tensor:
        """The block's slice of the tensor, ``[..., *block.shape]``, to ``[..., D, E]``."""
        return rearrange(piece, self.pattern, **self.axis_sizes)

    def from_edges(self, edges: Tensor) -> Tensor:
        """``[..., D, E]`` back to the block's slice of the tensor, ``[..., *block.shape]``."""
        return rearrange(edges, self.inverse, **self.axis_sizes)


@dataclass(frozen=True)
class LinkLayout:
    """Identity edges between two groups: one between any two nodes that agree on shared factors.

    Both ends see the shared factors in the same order.
    """

    src: Endpoint
    dst: Endpoint


def _link_layout(graph: ParameterGraph, src: int, dst: int) -> LinkLayout:
    size_of = {f.id: f.size for f in graph.factors}
    there, here = graph.groups[src].factors, graph.groups[dst].factors
    both = set(there) & set(here)
    # two nodes can agree on a factor only where they agree on what its permutation depends on
    shared = [f for f in there if f in both and ancestors(graph, f) <= both]

    def end(group: int, factors: tuple[int, ...]) -> Endpoint:
        sizes = tuple(size_of[f] for f in factors)
        return Endpoint(group, sizes, tuple(factors.index(f) for f in shared))

    return LinkLayout(end(src, there), end(dst, here))


def _side(role: str) -> str:
    return "row" if role == "dst" else "column"


def _splitting_factor(graph: ParameterGraph, block: Block) -> int | None:
    """A factor on one side of a block that the permutation of a factor on the other side needs.

    With one permutation of the columns per row, a block is no matrix: it must be cut into one
    block per index of that factor (the experts of a stacked weight, the groups of a convolution).
    """
    sides: dict[str, list[int]] = {"row": [], "column": []}
    for factors, roles in zip(block.dims, block.roles, strict=True):
        for factor, role in zip(factors, roles, strict=True):
            sides[_side(role)].append(factor)
    for mine, other in (("row", "column"), ("column", "row")):
        for factor in sides[mine]:
            for parent in sorted(ancestors(graph, factor)):
                if parent in sides[other] and parent not in sides[mine]:
                    return parent
    return None


@dataclass(frozen=True)
class _Piece:
    """A block, or what is left of it at fixed indices of some factors."""

    block: Block
    at: tuple[tuple[int, int], ...] = ()


def _pieces(graph: ParameterGraph, piece: _Piece) -> list[_Piece]:
    block = piece.block
    factor = _splitting_factor(graph, block)
    if factor is None:
        return [piece]
    size_of = {f.id: f.size for f in graph.factors}
    d, p = next((d, f.index(factor)) for d, f in enumerate(block.dims) if factor in f)
    sizes = [size_of[f] for f in block.dims[d]]
    places = torch.tensor(list(block.index[d])).view(sizes)
    found = []
    for index in range(size_of[factor]):
        chosen = list(block.index)
        chosen[d] = _as_range(places.select(p, index).flatten().tolist())
        dims, roles = list(block.dims), list(block.roles)
        dims[d], roles[d] = dims[d][:p] + dims[d][p + 1 :], roles[d][:p] + roles[d][p + 1 :]
        part = replace(block, index=tuple(chosen), dims=tuple(dims), roles=tuple(roles))
        found += _pieces(graph, _Piece(part, (*piece.at, (factor, index))))
    return found


def _as_range(places: list[int]) -> Any:
    step = places[1] - places[0] if len(places) > 1 else 1
    regular = range(places[0], places[0] + step * len(places), step) if step > 0 else range(0)
    return regular if list(regular) == places else tuple(places)


def _block_layout(graph: ParameterGraph, piece: _Piece) -> BlockLayout:
    block = piece.block
    factor_of = {f.id: f for f in graph.factors}
    where: dict[str, list[tuple[int, str]]] = {"dst": [], "src": [], "kernel": []}
    sizes: dict[str, int] = {}
    dims = []
    for d, (factors, roles) in enumerate(zip(block.dims, block.roles, strict=True)):
        names = []
        for p, (factor, role) in enumerate(zip(factors, roles, strict=True)):
            name = _axis(d, p)
            names.append(name)
            sizes[name] = factor_of[factor].size
            where[role].append((factor, name))
        dims.append("(" + " ".join(names) + ")")

    fixed = dict(piece.at)
    ends, rest = {}, {}
    for role, group_id in (("dst", block.dst), ("src", block.src)):
        order = graph.groups[group_id].factors
        known = {f for f, _ in where[role]} | fixed.keys()
        # nodes are told apart only by factors whose permutation the same nodes know
        seen = [(f, n) for f, n in where[role] if ancestors(graph, f) <= known & set(order)]
        rest[role] = [pair for pair in where[role] if pair not in seen]
        where[role] = sorted(seen, key=lambda pair: order.index(pair[0]))
        ends[role] = Endpoint(
            group_id,
            tuple(factor_of[f].size for f in order),
            tuple(order.index(f) for f, _ in where[role]),
            tuple((order.index(f), index) for f, index in piece.at if f in order),
        )
    if rest["dst"]:
        raise ValueError(f"{block.tensor}: no node of the group tells {rest['dst']} apart.")
    kernel = where["kernel"] + rest["src"]
    left = "... " + " ".join(dims)
    rows = " ".join(name for _, name in where["dst"])
    columns = " ".join(name for _, name in where["src"] + kernel)
    right = f"... ({rows}) ({columns})"
    return BlockLayout(
        block,
        graph.shapes[block.tensor],
        f"{left} -> {right}",
        f"{right} -> {left}",
        sizes,
        ends["dst"],
        ends["src"],
        tuple(factor_of[f].size for f, _ in kernel),
        tuple(not factor_of[f].is_free for f, _ in kernel),
    )


class BlockedGraph:
    """All layouts of a graph and the way from named tensors to edge blocks and back."""

    def __init__(self, graph: ParameterGraph) -> None:
        self.graph = graph
        self.blocks = tuple(
            _block_layout(graph, piece)
            for block in graph.blocks
            for piece in _pieces(graph, _Piece(block))
        )
        self.links = tuple(_link_layout(graph, link.src, link.dst) for link in graph.links)
        self.names = tuple(graph.shapes)
        # plain attributes: a compiler does not trace through a cached property
        size_of = {f.id: f.size for f in graph.factors}
        #: Number of nodes per group.
        self.group_sizes = tuple(prod(size_of[f] for f in g.factors) for g in graph.groups)
        #: ``(D, E)`` per block.
        self.sizes = tuple((b.dst.size, b.fan_in) for b in self.blocks)
        #: Number of edges per block.
        self.edge_counts = tuple(d * e for d, e in self.sizes)
        #: Indices of the blocks of every tensor.
        self.blocks_of: dict[str, list[int]] = {name: [] for name in self.names}
        for i, layout in enumerate(self.blocks):
            self.blocks_of[layout.block.tensor].append(i)

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

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Named tensors ``[..., *shape]`` to one ``[..., P]``, block after block."""
        return torch.cat([e.flatten(-2) for e in self.split(tensors)], -1)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """The inverse of :meth:`flatten`."""
        return self.join(self.blocks_of_flat(flat))

    def blocks_of_flat(self, flat: Tensor) -> list[Tensor]:
        """``[..., P]`` as one view ``[..., D, E]`` per block."""
        parts = flat.split(self.edge_counts, -1)
        return [part.unflatten(-1, size) for part, size in zip(parts, self.sizes, strict=True)]

    def ends(self, dst: Tensor, src: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Values at all ends, ``[..., sum of D]`` and ``[..., sum of E]``, block by block."""
        rows, columns = ([n[side] for n in self.sizes] for side in (0, 1))
        return list(zip(dst.split(rows, -1), src.split(columns, -1), strict=True))

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
                full[self.blocks[i].where(full.device)] = piece
            out[name] = full
        return out


def blocked(graph: ParameterGraph) -> BlockedGraph:
    """The layout of ``graph``, made once and kept on the graph."""
    return kept(graph, "layout", lambda: BlockedGraph(graph))


__all__ = ["BlockLayout", "BlockedGraph", "Endpoint", "blocked"]
