"""What every parameter does in its network: roles, read from the graph.

A role comes from what the traced pass did with a tensor, never from its name or its module. A
tensor that is used twice (an embedding table that is the output layer as well) has two uses, each
with roles of its own; a tensor that is several in one (packed queries, keys and values) has its
parts listed as slices.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gmn_opt.graph.structure import Block, BlockUse

if TYPE_CHECKING:
    from gmn_opt.graph.graph import ParameterGraph

#: A 2-D tensor without a graph is taken for a table of rows (an embedding, an output layer) when
#: its long side has at least this many indices, and this many times as many as the other.
TABLE_ROWS = 1024
TABLE_RATIO = 16


class Role(StrEnum):
    """What a tensor, or a slice of one, is in the network.

    The first line says what kind of parameter it is; exactly one of these, or INPUT or OUTPUT or
    both, is among the roles of every use. Those of the last line come on top.
    """

    MATRIX = "hidden matrix"
    CONVOLUTION = "convolution"
    INPUT = "input layer"
    OUTPUT = "output layer"
    EMBEDDING = "embedding"
    POSITION = "position"
    SCALE = "scale"
    SHIFT = "shift"
    BIAS = "bias"
    OTHER = "other"

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    ATTENTION_OUTPUT = "attention output"
    GATE = "gate"
    ROUTER = "router"
    EXPERT = "expert"


_SERVES = {
    "query": Role.QUERY, "key": Role.KEY, "value": Role.VALUE,
    "attended": Role.ATTENTION_OUTPUT, "gate": Role.GATE, "router": Role.ROUTER,
    "expert": Role.EXPERT,
}  # fmt: skip
_ORDER: dict[str, int] = {role: number for number, role in enumerate(Role)}


@dataclass(frozen=True)
class RoleUse:
    """One use of a tensor: its roles; heads and their dims where it belongs to an attention."""

    roles: frozenset[Role]
    heads: int = 0
    head_dim: int = 0

    def __str__(self) -> str:
        text = ", ".join(sorted(self.roles, key=lambda role: _ORDER[role]))
        return f"{text} ({self.heads} x {self.head_dim})" if self.heads else text


@dataclass(frozen=True)
class SliceRoles:
    """All uses of a slice of a tensor; ``index`` as in :class:`~gmn_opt.graph.Block`.

    ``assumed`` tells that the traced pass did not read it, or that there was none: then the roles
    are a guess from the shape.
    """

    tensor: str
    index: tuple[range | tuple[int, ...], ...]
    uses: tuple[RoleUse, ...]
    assumed: bool = False

    @property
    def roles(self) -> frozenset[Role]:
        """The roles of all uses together."""
        return frozenset(role for use in self.uses for role in use.roles)


class ParameterRoles(Mapping[str, tuple[SliceRoles, ...]]):
    """Parameter name to the roles of its slices, in the order of the model.

    ``str(roles)`` is a table. ``roles.of(name)`` is the set of all roles of a parameter.
    """

    def __init__(
        self, slices: Mapping[str, tuple[SliceRoles, ...]], shapes: Mapping[str, tuple[int, ...]],
        aliases: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._slices = dict(slices)
        self.shapes = dict(shapes)
        self.aliases = dict(aliases)

    def __getitem__(self, name: str) -> tuple[SliceRoles, ...]:
        name = self.aliases.get(name, name)
        if name not in self._slices:
            raise KeyError(
                f"No parameter {name!r}; the graph has {list(self._slices)[:5]} and so on"
            )
        return self._slices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)

    def of(self, name: str) -> frozenset[Role]:
        """All roles of a parameter, whichever slice and use they belong to."""
        return frozenset(role for part in self[name] for role in part.roles)

    def having(self, *roles: Role) -> list[str]:
        """Names of the parameters that have at least one of these roles."""
        return [name for name in self if self.of(name) & set(roles)]

    def __str__(self) -> str:
        return table(self)


def roles_of(graph: ParameterGraph) -> ParameterRoles:
    """The roles of all parameters; neighbouring slices with the same uses are one."""
    slices: dict[str, list[SliceRoles]] = {name: [] for name in graph.shapes}
    for block, uses in zip(graph.blocks, block_uses(graph), strict=True):
        found = SliceRoles(block.tensor, block.index, uses, not block.uses)
        slices[block.tensor].append(found)
    whole = {name: _merged(parts, graph.shapes[name]) for name, parts in slices.items() if parts}
    return ParameterRoles(whole, graph.shapes, graph.aliases)


def _merged(parts: list[SliceRoles], shape: tuple[int, ...]) -> tuple[SliceRoles, ...]:
    if len({(p.uses, p.assumed) for p in parts}) == 1:
        everything = tuple(range(n) for n in shape)
        return (SliceRoles(parts[0].tensor, everything, parts[0].uses, parts[0].assumed),)
    return tuple(parts)


_CACHE = "_block_uses"


def block_uses(graph: ParameterGraph) -> tuple[tuple[RoleUse, ...], ...]:
    """The uses of every block of ``graph.blocks``; computed once and kept on the graph."""
    found: tuple[tuple[RoleUse, ...], ...] | None = graph.__dict__.get(_CACHE)
    if found is None:
        found = tuple(_uses(graph, block) for block in graph.blocks)
        object.__setattr__(graph, _CACHE, found)
    return found


def block_roles(graph: ParameterGraph) -> tuple[frozenset[Role], ...]:
    """The roles of every block of ``graph.blocks``, those of all its uses together.

    The same for a graph and for its contraction. Of a graph without structure only shapes are
    known, and so of a parameter that the traced pass did not read. Assumed is then: tensors of one
    dim, or of one index per neuron, are biases; tensors of three or more dims are convolutions;
    2-D tensors are hidden matrices, unless one side is long and many times the other: these are
    tables of rows, taken for an embedding and an output layer at once.
    """
    return tuple(frozenset(r for use in uses for r in use.roles) for uses in block_uses(graph))


def _uses(graph: ParameterGraph, block: Block) -> tuple[RoleUse, ...]:
    if not block.uses:
        return _assumed(block)
    beside = {"inner", "constant"}
    known = [use for use in block.uses if not beside & set(use.facts)] or list(block.uses)
    found = dict.fromkeys(_read(graph, block, use) for use in known)
    kept = [u for u in found if not any(u.roles < other.roles for other in found)]
    largest = {u.roles: max((o for o in kept if o.roles == u.roles), key=_heads) for u in kept}
    return tuple(largest.values())


def _heads(use: RoleUse) -> int:
    return use.heads * use.head_dim


def _assumed(block: Block) -> tuple[RoleUse, ...]:
    """The uses of a block of which nothing but the shape is known."""
    sizes = [n for n in block.shape if n > 1]
    if len(block.shape) > 2 and len(sizes) > 1:
        return (_only(Role.CONVOLUTION),)
    if len(block.shape) < 2 or len(sizes) < 2:
        return (_only(Role.BIAS if len(block.shape) < 2 else Role.OTHER),)
    if max(sizes) >= TABLE_ROWS and max(sizes) >= TABLE_RATIO * min(sizes):
        return _only(Role.EMBEDDING), _only(Role.OUTPUT)
    return (_only(Role.MATRIX),)


def _only(role: Role) -> RoleUse:
    return RoleUse(frozenset({role}))


def _read(graph: ParameterGraph, block: Block, use: BlockUse) -> RoleUse:
    facts = set(use.facts)
    if "position" in facts:
        return _only(Role.POSITION)
    if use.kind == "embedding" or "looked up" in facts:
        return _only(Role.EMBEDDING)
    if use.kind not in ("linear", "conv") or (len(block.shape) < 2 and use.kind == "conv"):
        return _only(_added(block, use))
    roles = {_SERVES[f] for f in facts if f in _SERVES}
    ends = {Role.INPUT} if "input" in facts or _reads_input(graph, block) else set()
    if "output" in facts:
        ends.add(Role.OUTPUT)
    if use.kind == "conv":
        roles |= {Role.CONVOLUTION, *ends}
    elif ends:
        roles |= ends
    else:
        roles.add(Role.MATRIX if len(block.shape) > 1 else Role.OTHER)
    if "attended" in facts or roles & {Role.QUERY, Role.KEY, Role.VALUE}:
        return RoleUse(frozenset(roles), use.heads, use.head_dim)
    return RoleUse(frozenset(roles))


def _reads_input(graph: ParameterGraph, block: Block) -> bool:
    """Whether a slice of a larger tensor reads that part of a concatenation that is the input."""
    along = [d for d, roles in enumerate(block.roles) if "src" in roles]
    shape = graph.shapes[block.tensor]
    part = any(len(block.index[d]) < shape[d] for d in along)
    return part and graph.groups[block.src].role == "input"


def _added(block: Block, use: BlockUse) -> Role:
    """The role of what is added, multiplied, or handed on as it is."""
    if use.kind in ("scale", "shift"):
        return Role(use.kind)
    if use.kind in ("bias", "conv"):
        return Role.BIAS
    return Role.EMBEDDING if len(block.shape) > 1 else Role.OTHER


def table(roles: ParameterRoles, width: int | None = None) -> str:
    """Roles as text: one row per slice, further rows for further uses."""
    from rich.console import Console
    from rich.table import Table

    rows = Table(show_edge=False, pad_edge=False, box=None)
    for title in ("parameter", "shape", "roles"):
        rows.add_column(title, overflow="fold", justify="left")
    for name, parts in roles.items():
        shape = roles.shapes[name]
        for part in parts:
            where = _where(part, shape)
            uses = " | ".join(map(str, part.uses)) + (" (assumed)" if part.assumed else "")
            size = " x ".join(str(len(i)) for i in part.index) or "()"
            rows.add_row(f"{name}{where}", size, uses)
    out = io.StringIO()
    columns = width or max(shutil.get_terminal_size((100, 24)).columns, 60)
    Console(file=out, width=columns, color_system=None, highlight=False, markup=False).print(rows)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _where(part: SliceRoles, shape: tuple[int, ...]) -> str:
    """The slice in brackets, empty for a whole tensor."""
    if all(len(i) == n for i, n in zip(part.index, shape, strict=True)):
        return ""
    cuts = []
    for index, n in zip(part.index, shape, strict=True):
        whole, run = len(index) == n, isinstance(index, range)
        cuts.append(":" if whole else f"{index[0]}:{index[-1] + 1}" if run else f"{index[0]}, ...")
    return f"[{', '.join(cuts)}]"


__all__ = [
    "ParameterRoles",
    "Role",
    "RoleUse",
    "SliceRoles",
    "block_roles",
    "block_uses",
    "roles_of",
]
