"""The parameter graph of a network: a block graph, and all that can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from gmn_opt.graph.structure import Block, BlockGraph, Factor, NodeGroup
from gmn_opt.graph.symmetry import Symmetry

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import networkx as nx  # type: ignore[import-untyped]
    import torch
    from torch import Tensor, nn
    from torch_geometric.data import Data

    from gmn_opt.graph.roles import ParameterRoles


class ParameterGraph(BlockGraph):
    """Neurons as nodes, parameters as edges (Lim et al. 2023, arXiv 2312.04501, section 2).

    Its parts, and the ValueError where they contradict each other, are those of
    :class:`~gmn_opt.graph.structure.BlockGraph`.
    """

    def roles(self) -> ParameterRoles:
        """What each parameter does in the network; see :mod:`gmn_opt.graph.roles`."""
        from gmn_opt.graph.roles import roles_of

        return roles_of(self)

    # ------------------------------------------------------------------ symmetries

    def random_symmetry(self, generator: torch.Generator | None = None) -> Symmetry:
        """A function-preserving permutation, uniform over the group that the graph describes."""
        return Symmetry.random(self, generator)

    def permute(self, tensors: Mapping[str, Any], symmetry: Symmetry) -> dict[str, Any]:
        """Apply a symmetry to tensors by name; see :meth:`Symmetry.apply`."""
        return symmetry.apply(tensors)

    def verify(self, model: nn.Module, *args: Any, **kwargs: Any) -> float:
        """Largest relative change of the outputs over random symmetries, in float64.

        Works on a deep copy whose parameters and running statistics are drawn anew, since
        scales of one and biases of zero would hide errors. Anything above about 1e-9 is a wrong
        symmetry.
        """
        from gmn_opt.graph.verify import verify

        return verify(self, model, args, kwargs)

    # ------------------------------------------------------------------ other forms

    def contract(self) -> ParameterGraph:
        """The graph with all groups that residual links join merged into one, for speed."""
        merged = list(range(len(self.groups)))

        def root(i: int) -> int:
            while merged[i] != i:
                i = merged[i]
            return i

        for link in self.links:
            a, b = root(link.src), root(link.dst)
            same = self.groups[a].factors == self.groups[b].factors
            if link.kind == "residual" and same:
                merged[max(a, b)] = min(a, b)
        roots = sorted({root(i) for i in range(len(self.groups))})
        new_id = {r: i for i, r in enumerate(roots)}
        members: dict[int, list[NodeGroup]] = {r: [] for r in roots}
        for i, group in enumerate(self.groups):
            members[root(i)].append(group)
        groups = []
        for r in roots:
            found = {g.role for g in members[r]}
            role = next(x for x in ("output", "input", "hidden", "bias") if x in found)
            activation = next((g.activation for g in members[r] if g.activation), None)
            groups.append(replace(self.groups[r], id=new_id[r], role=role, activation=activation))

        def move(i: int) -> int:
            return new_id[root(i)]

        links = []
        for link in self.links:
            new = replace(link, src=move(link.src), dst=move(link.dst))
            if new.src != new.dst and new not in links:
                links.append(new)
        blocks, buffers = (
            tuple(replace(b, src=move(b.src), dst=move(b.dst)) for b in bs)
            for bs in (self.blocks, self.buffer_blocks)
        )
        return replace(
            self, groups=tuple(groups), blocks=blocks, buffer_blocks=buffers, links=tuple(links)
        )

    @classmethod
    def islands(
        cls, shapes: Mapping[str, Sequence[int]], reason: str = "the model was not traced"
    ) -> ParameterGraph:
        """The structure-free graph: every tensor between node groups of its own, all fixed.

        Dim 0 runs over destination nodes, dim 1 over source nodes, further dims over parallel
        edges; vectors come from a bias node.
        """
        factors: list[Factor] = []
        groups: list[NodeGroup] = []
        blocks: list[Block] = []
        for name, shape in shapes.items():
            ids = []
            for dim, size in enumerate(shape):
                ids.append(len(factors))
                factors.append(Factor(len(factors), int(size), f"{name}:{dim}", reason))
            roles = [("dst", "src")[d] if d < 2 else "kernel" for d in range(len(shape))]
            dst = NodeGroup(len(groups), f"{name} out", "hidden", tuple(ids[:1]))
            src = NodeGroup(
                len(groups) + 1,
                f"{name} in" if len(shape) > 1 else name,
                "hidden" if len(shape) > 1 else "bias",
                tuple(ids[1:2]),
            )
            groups += [dst, src]
            blocks.append(
                Block(
                    name,
                    "bias" if len(shape) < 2 else "linear" if len(shape) == 2 else "other",
                    tuple(range(int(s)) for s in shape),
                    tuple((i,) for i in ids),
                    tuple((r,) for r in roles),  # type: ignore[misc]
                    src.id,
                    dst.id,
                )
            )
        return cls(
            tuple(factors),
            tuple(groups),
            tuple(blocks),
            shapes={n: tuple(int(x) for x in s) for n, s in shapes.items()},
            fixed_reasons={n: (reason,) * len(s) for n, s in shapes.items()},
        )

    def to_json(self) -> str:
        """The graph as JSON text, exact under :meth:`from_json`."""
        from gmn_opt.graph.export.json_text import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> ParameterGraph:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: If the text is no graph, or one of another format version.
        """
        from gmn_opt.graph.export.json_text import parts

        return cls(**parts(text))

    def to_pyg(self, tensors: Mapping[str, Tensor]) -> Data:
        """Named tensors ``[*shape]`` or ``[*shape, f]`` as torch_geometric ``Data``, lossless.

        One node per neuron, one edge per parameter element; see
        :func:`gmn_opt.graph.export.pyg.to_pyg` for all attributes.
        """
        from gmn_opt.graph.export.pyg import to_pyg

        return to_pyg(self, tensors)

    def from_pyg(self, data: Data) -> dict[str, Tensor]:
        """The tensors in the edge features of :meth:`to_pyg`'s result, or in what replaced them."""
        from gmn_opt.graph.export.pyg import from_pyg

        return from_pyg(self, data)

    def to_networkx(self, tensors: Mapping[str, Tensor] | None = None) -> nx.MultiDiGraph:
        """The graph, and values if given, for networkx; for small networks."""
        from gmn_opt.graph.export.nx import to_networkx

        return to_networkx(self, tensors)

    def draw(
        self, path: str | PathLike[str], level: Literal["auto", "neurons", "layers"] = "auto"
    ) -> Path:
        """Draw the graph to a .png, .svg or .pdf file, and return its path.

        ``neurons`` shows every neuron and parameter, ``layers`` a box per group of neurons;
        ``auto`` takes the first for networks of at most 60 neurons and 600 parameters.

        Raises:
            ValueError: For another suffix or level, or more neurons than one picture can show.
            OSError: If the file cannot be written.
        """
        from gmn_opt.graph.draw.picture import draw

        return draw(self, path, level)

    def __str__(self) -> str:
        from gmn_opt.graph.draw.table import table

        return table(self)

    def __repr__(self) -> str:
        return (
            f"ParameterGraph({len(self.shapes)} parameters, {len(self.groups)} groups, "
            f"{len(self.spaces)} spaces, coverage {self.coverage():.1%})"
        )
