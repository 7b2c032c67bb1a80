"""What is worked out once per graph and kept: never inside a program that is being compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def made_once(function: Callable[P, R]) -> Callable[P, R]:
    """Keep ``function`` out of ``torch.compile``, which with ``fullgraph=True`` then says why."""
    made: Callable[P, R] = torch.compiler.disable(
        function,
        reason=(
            "A metanet keeps what it works out about a graph on the first call. Call it once on "
            "this graph, in this dtype and on this device, before compiling with fullgraph=True."
        ),
    )
    return made
