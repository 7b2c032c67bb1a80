"""Which parameter of an optimizer stands where in which graph."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, TraceError, trace


@dataclass(frozen=True)
class Binding:
    """A graph and the tensor behind each of its names.

    ``tensors`` may hold parameters of the model that the optimizer does not train: the metanet
    sees them, and they are never changed.
    """

    graph: ParameterGraph
    tensors: dict[str, Tensor]


class GraphWarning(UserWarning):
    """The optimizer works without the structure of the network."""


def bind_traced(model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Binding:
    """Trace ``model`` on ``inputs`` and bind its parameters; raises TraceError."""
    args, kwargs = inputs
    graph = trace(model, *args, **kwargs).contract()
    named = dict(model.named_parameters())
    return Binding(graph, {name: named[name] for name in graph.shapes})


def bind_islands(params: Sequence[Tensor], first: int = 0) -> Binding:
    """A graph without structure: every parameter stands alone, named by its position."""
    named = {f"param_{first + i}": p for i, p in enumerate(params)}
    return Binding(ParameterGraph.islands({n: tuple(p.shape) for n, p in named.items()}), named)


def bind(
    params: Sequence[Tensor],
    model: nn.Module | None,
    inputs: tuple[tuple[Any, ...], dict[str, Any]] | None,
) -> list[Binding]:
    """Bindings that cover ``params``: the model's graph if there is one, islands for the rest.

    Warns once, with the reason, when some parameters get no structure.
    """
    found: list[Binding] = []
    reason = None
    if model is None:
        reason = "no module that owns these parameters was found; pass model=..."
    elif inputs is None:
        reason = (
            f"{type(model).__name__} was not called before the first step (its forward may have "
            "been called directly, without hooks); pass example_inputs=(...)"
        )
    else:
        try:
            found.append(bind_traced(model, inputs))
        except TraceError as error:
            reason = f"tracing {type(model).__name__} failed: {error}"
    known = {id(p) for b in found for p in b.tensors.values()}
    rest = [p for p in params if id(p) not in known]
    if rest:
        if reason is None:
            reason = f"{len(rest)} of {len(params)} parameters do not belong to the traced model"
        warnings.warn(
            f"GMNOptimizer treats {len(rest)} parameters without their graph: {reason}. Training "
            "goes on, each of these tensors on its own.",
            GraphWarning,
            stacklevel=4,
        )
        found.append(bind_islands(rest))
    return found
