"""What the trace remembers about tensors and parameters: labels, uses and links."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from gmn_opt.graph.labels import Axis, Site, SiteRef
from gmn_opt.graph.structure import BlockKind, DimRole

LabelKind = Literal["constant", "parameter", "activation"]


class Label(NamedTuple):
    """One axis per dim of a tensor, and what the tensor was computed from."""

    axes: tuple[Axis, ...]
    kind: LabelKind = "activation"
    uniform: bool = False

    def with_axes(self, axes: list[Axis] | tuple[Axis, ...]) -> Label:
        """The same tensor with other axes."""
        return Label(tuple(axes), self.kind, self.uniform)


class Pair(NamedTuple):
    """A parameter axis, what it runs over, and the activation axis that it meets there."""

    role: DimRole
    parameter: Axis
    activation: Axis


@dataclass
class Use:
    """One operator in which parameters act on activations.

    ``facts`` says what the operator is in the network, in the words of
    :class:`gmn_opt.graph.structure.BlockUse`; ``parameters`` are the numbers of those involved.
    """

    kind: BlockKind
    pairs: list[Pair]
    attributes: dict[str, float] = field(default_factory=dict)
    facts: set[str] = field(default_factory=set)
    heads: tuple[int, int] = (0, 0)
    parameters: set[int] = field(default_factory=set)


@dataclass
class Record:
    """Everything that one traced pass leaves behind."""

    parameters: list[Label]
    uses: list[Use] = field(default_factory=list)
    links: dict[tuple[SiteRef, SiteRef, str], tuple[SiteRef, SiteRef]] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    seen: list[tuple[Axis, ...]] = field(default_factory=list)
    output_sites: set[int] = field(default_factory=set)

    def link(self, src: SiteRef | None, dst: SiteRef | None, kind: str) -> None:
        """Remember an identity edge between two sites."""
        if src is None or dst is None or src == dst:
            return
        self.links.setdefault((src, dst, kind), (src, dst))
