"""The parameter graph of a network: factors, node groups, blocks of edges, links."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import torch

from gmn_opt.graph.structure import Block, BlockUse, Factor, Link, NodeGroup

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import networkx as nx  # type: ignore[import-untyped]
    from torch import Tensor, nn
    from torch_geometric.data import Data

    from gmn_opt.graph.symmetry import Symmetry

FORMAT = 1


@dataclass(frozen=True)
class ParameterGraph:
    """Neurons as nodes, parameters as edges (Lim et al. 2023, arXiv 2312.04501, section 2).

    Ids are positions in these tuples; see :mod:`gmn_opt.graph.structure` for their entries.

    Attributes:
        factors: The index sets that tensor axes share.
        groups: The neurons, one group per activation site.
        blocks: The edges. Every element of every parameter lies in exactly one block.
        links: Identity edges without parameters, such as residual connections.
        shapes: Parameter name to shape, in the model's order.
        buffer_blocks: Running statistics that a symmetry moves along with their channels.
        fixed_reasons: Tensor name to one reason per dim; an empty string where the dim is free.
        aliases: Further names of shared parameters, to the name under which they are listed.

    Raises:
        ValueError: If the parts contradict each other; the message names the block.
    """

    factors: tuple[Factor, ...]
    groups: tuple[NodeGroup, ...]
    blocks: tuple[Block, ...]
    links: tuple[Link, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    buffer_blocks: tuple[Block, ...] = ()
    fixed_reasons: dict[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _validate(self)

    def __hash__(self) -> int:
        return id(self)

    @property
    def spaces(self) -> tuple[Factor, ...]:
        """The free factors: what may be permuted without changing the function."""
        return tuple(f for f in self.factors if f.is_free)

    def coverage(self) -> float:
        """Share of parameter elements that lie along at least one free axis, in [0, 1]."""
        free = {f.id for f in self.spaces}
        total = sum(b.numel for b in self.blocks)
        covered = sum(b.numel for b in self.blocks if any(free & set(d) for d in b.dims))
        return covered / total if total else 0.0

    def parents_of(self, group: NodeGroup | int) -> tuple[Factor, ...]:
        """What the neurons of a group are held together by: heads, groups of a convolution.

        These are the factors that permutations of the group's other factors depend on. In the forms
        that list every node (:meth:`to_pyg`, :meth:`to_networkx`), each of their indices has an
        auxiliary node with an edge to every neuron below it.
        """
        factors = self.groups[group if isinstance(group, int) else group.id].factors
        above = {p for f in factors for p in self.factors[f].parents}
        return tuple(self.factors[f] for f in factors if f in above)

    # ------------------------------------------------------------------ symmetries

    def random_symmetry(self, generator: torch.Generator | None = None) -> Symmetry:
        """A function-preserving permutation, uniform over the group that the graph describes."""
        from gmn_opt.graph.symmetry import Symmetry

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
        data = {
            "format": FORMAT,
            "factors": [asdict(f) for f in self.factors],
            "groups": [asdict(g) for g in self.groups],
            "blocks": [_block_to_json(b) for b in self.blocks],
            "buffer_blocks": [_block_to_json(b) for b in self.buffer_blocks],
            "links": [asdict(x) for x in self.links],
            "shapes": {n: list(s) for n, s in self.shapes.items()},
            "fixed_reasons": {n: list(r) for n, r in self.fixed_reasons.items()},
            "aliases": self.aliases,
        }
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> ParameterGraph:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: If the text is no graph, or one of another format version.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"This is not the JSON of a parameter graph: {error}") from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise ValueError(
                f"Expected a parameter graph of format {FORMAT}, received {found!r}. "
                "Trace the model again with this version of gmn-opt."
            )
        return cls(
            tuple(Factor(**{**f, "parents": tuple(f["parents"])}) for f in data["factors"]),
            tuple(NodeGroup(**{**g, "factors": tuple(g["factors"])}) for g in data["groups"]),
            tuple(_block_from_json(b) for b in data["blocks"]),
            tuple(Link(**x) for x in data["links"]),
            {n: tuple(s) for n, s in data["shapes"].items()},
            tuple(_block_from_json(b) for b in data["buffer_blocks"]),
            {n: tuple(r) for n, r in data["fixed_reasons"].items()},
            dict(data["aliases"]),
        )

    def to_pyg(self, tensors: Mapping[str, Tensor]) -> Data:
        """Named tensors ``[*shape]`` or ``[*shape, f]`` as torch_geometric ``Data``, lossless.

        One node per neuron, one edge per parameter element; see
        :func:`gmn_opt.graph.interchange.to_pyg` for all attributes.
        """
        from gmn_opt.graph.interchange import to_pyg

        return to_pyg(self, tensors)

    def from_pyg(self, data: Data) -> dict[str, Tensor]:
        """The tensors in the edge features of :meth:`to_pyg`'s result, or in what replaced them."""
        from gmn_opt.graph.interchange import from_pyg

        return from_pyg(self, data)

    def to_networkx(self, tensors: Mapping[str, Tensor] | None = None) -> nx.MultiDiGraph:
        """The graph, and values if given, for networkx; for small networks."""
        from gmn_opt.graph.interchange import to_networkx

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
        from gmn_opt.graph.drawing import draw

        return draw(self, path, level)

    def __str__(self) -> str:
        from gmn_opt.graph.show import table

        return table(self)

    def __repr__(self) -> str:
        return (
            f"ParameterGraph({len(self.shapes)} parameters, {len(self.groups)} groups, "
            f"{len(self.spaces)} spaces, coverage {self.coverage():.1%})"
        )


def _block_to_json(block: Block) -> dict[str, Any]:
    index = [
        [r.start, r.stop, r.step] if isinstance(r, range) else {"at": list(r)} for r in block.index
    ]
    return {**asdict(block), "index": index}


def _block_from_json(data: dict[str, Any]) -> Block:
    index = tuple(tuple(r["at"]) if isinstance(r, dict) else range(*r) for r in data["index"])
    return Block(
        **{
            **data,
            "index": index,
            "dims": tuple(tuple(d) for d in data["dims"]),
            "roles": tuple(tuple(r) for r in data["roles"]),
            "uses": tuple(
                BlockUse(**{**u, "facts": tuple(u["facts"])}) for u in data.get("uses", ())
            ),
        }
    )


def _validate(graph: ParameterGraph) -> None:
    for what, ids in (
        ("factor", [f.id for f in graph.factors]),
        ("group", [g.id for g in graph.groups]),
    ):
        if ids != list(range(len(ids))):
            raise ValueError(f"the {what} ids are {ids[:20]}; ids must be positions")
    sizes = [f.size for f in graph.factors]
    for group in graph.groups:
        if any(not 0 <= f < len(sizes) for f in group.factors):
            raise ValueError(f"group {group.name!r} refers to a factor that does not exist")
    covered = dict.fromkeys(graph.shapes, 0)
    for block in (*graph.blocks, *graph.buffer_blocks):
        where = f"a block of {block.tensor!r}"
        if not (len(block.index) == len(block.dims) == len(block.roles)):
            raise ValueError(f"{where}: index, dims and roles differ in length")
        for dim, (n, factors, roles) in enumerate(
            zip(block.shape, block.dims, block.roles, strict=True)
        ):
            if any(not 0 <= f < len(sizes) for f in factors):
                raise ValueError(f"{where}: dim {dim} refers to a factor that does not exist")
            if prod(sizes[f] for f in factors) != n or len(roles) != len(factors):
                raise ValueError(
                    f"{where}: dim {dim} has {n} indices, but its factors have sizes "
                    f"{[sizes[f] for f in factors]} and roles {list(roles)}"
                )
        for end, role in ((block.src, "src"), (block.dst, "dst")):
            if not 0 <= end < len(graph.groups):
                raise ValueError(f"{where}: its {role} group {end} does not exist")
            used = {
                f
                for fs, rs in zip(block.dims, block.roles, strict=True)
                for f, r in zip(fs, rs, strict=True)
                if r == role
            }
            if not used <= set(graph.groups[end].factors):
                raise ValueError(f"{where}: {role} factors {used} are not in its {role} group")
    for block in graph.blocks:
        if block.tensor not in covered:
            raise ValueError(f"a block of {block.tensor!r}, which is not among the parameters")
        covered[block.tensor] += block.numel
    for name, shape in graph.shapes.items():
        if covered[name] != prod(shape):
            raise ValueError(
                f"{name!r} has {prod(shape)} elements, but its blocks have {covered[name]}"
            )
    for link in graph.links:
        if not (0 <= link.src < len(graph.groups) and 0 <= link.dst < len(graph.groups)):
            raise ValueError(f"{link} refers to a group that does not exist")
