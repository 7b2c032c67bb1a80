"""The one choice between backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gmn_opt.metanet.backends import native, plain, tiled
from gmn_opt.metanet.backends.plain import Messages
from gmn_opt.metanet.incidence import Incidence, incidence_of
from gmn_opt.metanet.layout import Sizes, blocked

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph


class Backend(Protocol):
    """See :mod:`gmn_opt.metanet.backends`."""

    def gather(
        self, incidence: Incidence, pairs: Tensor, per_block: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(dst, src)."""
        ...

    def pool(self, incidence: Incidence, dst: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
        """(pairs, per_block)."""
        ...

    def edge_pass(
        self,
        sizes: Sizes,
        keep_edges: bool,
        x: Tensor,
        weight: Tensor,
        residual: Tensor | None,
        src: Tensor,
        dst: Tensor,
    ) -> Messages:
        """(new, at_dst, at_src)."""
        ...


def choose(*given: Tensor) -> Backend:
    """The backend that serves these tensors where they stand.

    Transforms of ``torch.func`` and autocast see into nothing but operators, and a compiler fuses
    these better than tiles of them.
    """
    if native.is_hidden(given[0]):
        return plain
    if torch.compiler.is_compiling():
        return native if native.compiles(given[0]) else plain
    return native if native.serves(*given) else tiled


def at_ends(graph: ParameterGraph, pairs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What nodes say at the two ends of every block: ``[..., c, D]`` and ``[..., c, E]``.

    ``pairs`` [..., N, 2 c] holds what every node says as a destination, then as a source.
    """
    ends = choose(pairs).gather(incidence_of(graph, pairs), pairs)
    return blocked(graph).ends(*ends)
