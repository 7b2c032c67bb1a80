"""The data model of a parameter graph: plain, immutable, serializable.

A network is a graph (Lim et al. 2023, arXiv 2312.04501, section 2): neurons are nodes and every
parameter is one edge. Storing a hundred thousand edges one by one would be slow and would hide the
structure, so a graph is stored in *blocks*: a block is a (part of a) parameter tensor whose
elements all run between the same two groups of nodes.

Vocabulary
----------
factor
    A set of indices that several tensor axes share. A *free* factor may be permuted without
    changing the network's function (hidden neurons, channels, heads); a *fixed* one may not
    (pixels, classes, kernel positions), and says why. A free factor is also called a *space*.
dim
    One axis of a tensor, written as the factors that it is a product of, outermost first, as in
    the einops pattern ``"(h d) i"``.
node group
    The neurons of one activation site, one node per index of its factors.
block
    A parameter, or a slice of one, as edges from a source group to a destination group.
link
    Parameter-free identity edges between two groups, as made by a residual addition.
block graph
    All of these together. Users have it as :class:`gmn_opt.graph.graph.ParameterGraph`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal

GroupRole = Literal["input", "hidden", "output", "bias"]
DimRole = Literal["dst", "src", "kernel"]
BlockKind = Literal["linear", "conv", "embedding", "bias", "scale", "shift", "other"]


@dataclass(frozen=True)
class Factor:
    """A set of ``size`` indices shared by tensor axes.

    ``fixed`` is the reason why the indices must stay in place, or None when they may be permuted.
    ``parents`` are the ids of the factors that a permutation may depend on: with ``parents=(h,)``,
    every index of ``h`` may use a permutation of its own (the dims of each attention head).
    """

    id: int
    size: int
    name: str = ""
    fixed: str | None = None
    parents: tuple[int, ...] = ()

    @property
    def is_free(self) -> bool:
        """Whether a permutation other than the identity exists and preserves the function."""
        return self.fixed is None and self.size > 1


@dataclass(frozen=True)
class NodeGroup:
    """The neurons of one activation site: one node for every index of ``factors``.

    ``factors`` is empty for a single node (a bias node). ``activation`` names the first
    nonlinearity applied to the site, when one was seen.
    """

    id: int
    name: str
    role: GroupRole
    factors: tuple[int, ...] = ()
    activation: str | None = None


@dataclass(frozen=True)
class BlockUse:
    """One way in which the network uses a block; a tied table has two.

    ``facts`` are what the traced pass showed of it, of: "input" (it reads the model's input),
    "output" (it makes the model's output), "attended" (it reads what an attention gives),
    "query", "key", "value", "gate", "router", "expert", "looked up" (rows chosen by the input),
    "position" (rows chosen by position). ``heads`` and ``head_dim`` are 0 where there are none.
    """

    kind: BlockKind
    facts: tuple[str, ...] = ()
    heads: int = 0
    head_dim: int = 0


@dataclass(frozen=True)
class Block:
    """A tensor, or a strided slice of one, as edges from group ``src`` to group ``dst``.

    ``index`` holds the indices of the slice along each dim of the tensor: a ``range``, or a tuple
    where they are no run (one part of an interleaved ``(heads (q k v))``). ``dims`` holds the
    factors of each dim of that slice (outermost first), and ``roles`` says of each of those
    factors whether it runs over destination nodes, source nodes, or parallel edges
    (``"kernel"``: kernel positions, pixels behind a flattened channel, positions of a positional
    embedding).

    ``attributes`` holds ``fan_in`` and ``fan_out`` of products and convolutions, and of the latter
    ``stride``, ``padding``, ``dilation`` (along their first axis), ``groups`` and ``transposed``.
    ``uses`` lists every way in which the traced pass used the block, empty where it was not read.
    """

    tensor: str
    kind: BlockKind
    index: tuple[range | tuple[int, ...], ...]
    dims: tuple[tuple[int, ...], ...]
    roles: tuple[tuple[DimRole, ...], ...]
    src: int
    dst: int
    attributes: dict[str, float] = field(default_factory=dict)
    uses: tuple[BlockUse, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the slice, one entry per dim of the tensor."""
        return tuple(len(r) for r in self.index)

    @property
    def numel(self) -> int:
        """Number of elements (edges)."""
        return prod(self.shape)


@dataclass(frozen=True)
class Link:
    """Parameter-free identity edges of value 1 from group ``src`` to group ``dst``.

    There is one edge from each node of ``src`` to each node of ``dst`` that has the same indices of
    all factors that the two groups share. Mostly they share all. Where ``src`` has more of them
    (the outputs of stacked experts, linked to a residual stream), ``dst`` sees the mean over these;
    where ``dst`` has more (values that several query heads read), each node of ``src`` is repeated.
    Groups that share no factor have no link.

    ``kind`` is "residual" for neurons that are added, or handed on as they are, and "product" for
    neurons that are multiplied with each other.
    """

    src: int
    dst: int
    kind: Literal["residual", "product", "norm"] = "residual"


@dataclass(frozen=True)
class BlockGraph:
    """Neurons as nodes, parameters as edges, block by block: what all else is made from.

    Ids are positions in these tuples.

    Attributes:
        factors: The index sets that tensor axes share.
        groups: The neurons, one group per activation site.
        blocks: The edges. Every element of every parameter lies in exactly one block.
        links: Identity edges without parameters, such as residual connections.
        shapes: Parameter name to shape, in the model's order.
        buffer_blocks: Running statistics and other buffers that a symmetry moves along with their
            channels.
        fixed_reasons: Tensor name to one reason per dim; an empty string where the dim is free.
        aliases: Further names of shared parameters, to the name under which they are listed.
        notes: What one should know of how the graph was found: outputs that were left out, a
            check that could not be made. Two graphs with other notes are equal.

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
    notes: tuple[str, ...] = field(default=(), compare=False)

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


def _validate(graph: BlockGraph) -> None:
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
