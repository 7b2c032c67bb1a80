"""What is worked out once per graph and kept on it, outside of programs that are compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph

T = TypeVar("T")
_KEPT = "_kept"


def kept(graph: ParameterGraph, key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` gave when this was first asked for under ``key``."""
    found: dict[Hashable, Any] = graph.__dict__.get(_KEPT, {})
    return found[key] if key in found else _made(graph, key, make)


@torch.compiler.disable(
    reason=(
        "A metanet keeps what it works out about a graph on the first call. Call it once on "
        "this graph, in this dtype and on this device, before compiling with fullgraph=True."
    )
)
def _made(graph: ParameterGraph, key: Hashable, make: Callable[[], T]) -> T:
    # tensors of inference mode could not be used outside of it
    with torch.inference_mode(False), torch.device("cpu"):
        made = make()
    graph.__dict__.setdefault(_KEPT, {})[key] = made
    return made
