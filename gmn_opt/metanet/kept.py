"""What is worked out once per graph and kept on it, outside of programs that are compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from gmn_opt import kept as store
from gmn_opt.eager import eagerly

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph

T = TypeVar("T")


def kept(graph: ParameterGraph, key: Hashable, make: Callable[[], T]) -> T:
    """:func:`gmn_opt.kept.kept` on a graph, which a compiler may read but not add to."""
    found: dict[Hashable, Any] = graph.__dict__.get(store.NAME, {})
    return found[key] if key in found else _made(graph, key, make)


@eagerly(
    reason=(
        "A metanet keeps what it works out about a graph on the first call. Call it once on "
        "this graph, in this dtype and on this device, before compiling with fullgraph=True."
    )
)
def _made(graph: ParameterGraph, key: Hashable, make: Callable[[], T]) -> T:
    # tensors of inference mode could not be used outside of it
    with torch.inference_mode(False), torch.device("cpu"):
        return store.kept(graph, key, make)
