"""What traced passes leave behind: labels of parameters, their uses, sites and links."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from gmn_opt.graph.structure import BlockKind, DimRole
from gmn_opt.graph.tracing.labels import Axis, Label, Site, SiteRef


class Pair(NamedTuple):
    """A parameter axis, what it runs over, and the activation axis that it meets there."""

    role: DimRole
    parameter: Axis
    activation: Axis


@dataclass
class Use:
    """One operator in which parameters act on activations.

    ``facts`` says what the operator is in the network, in the words of
    :class:`gmn_opt.graph.structure.BlockUse`; ``heads`` are how many of how many dims;
    ``parameters`` are the numbers of those involved.
    """

    kind: BlockKind
    pairs: list[Pair]
    attributes: dict[str, float] = field(default_factory=dict)
    facts: set[str] = field(default_factory=set)
    heads: tuple[int, int] = (0, 0)
    parameters: set[int] = field(default_factory=set)


@dataclass
class Record:
    """Everything that the traced passes of one model leave behind.

    Attributes:
        names: Names of the parameters.
        parameters: Their labels.
        touched: Positions of those that were read.
        statistics: Labels of the running statistics, by name.
        uses: Where parameters act on activations.
        links: Identity edges between sites, in the order in which they were met.
        sites: All places where neurons come to be.
        seen: The axes of every tensor and hidden statistic.
        outputs: Labels of the model's outputs.
        scalings: Positions of parameters that only scale other ones, as in a weight norm.
        moving: Names of further buffers that symmetries move, since they belong to the state.
        skipped: Names of what the passes gave that is not held to be a result.
    """

    names: list[str] = field(default_factory=list)
    parameters: list[Label] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)
    statistics: dict[str, Label] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    links: dict[tuple[SiteRef, SiteRef, str], None] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    seen: list[tuple[Axis, ...]] = field(default_factory=list)
    outputs: list[Label] = field(default_factory=list)
    scalings: set[int] = field(default_factory=set)
    moving: list[str] = field(default_factory=list)
    skipped: dict[str, None] = field(default_factory=dict)

    @property
    def unread(self) -> set[int]:
        """Positions of parameters that no pass has read."""
        return set(range(len(self.names))) - self.touched

    def link(self, src: SiteRef | None, dst: SiteRef | None, kind: str) -> None:
        """Remember an identity edge between two sites."""
        if src is not None and dst is not None and src != dst:
            self.links[src, dst, kind] = None
