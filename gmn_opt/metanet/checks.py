"""What must hold of the tensors that a metanet is given, beyond names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gmn_opt.metanet.layout import blocked

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph


def check_kind(module: nn.Module, tensors: Mapping[str, Tensor | None]) -> None:
    """Raise ValueError for a dtype or device that is not that of ``module``, naming the tensor."""
    parameter = next(module.parameters())
    autocast = torch.is_autocast_enabled(parameter.device.type)
    for name, t in tensors.items():
        if t is None:
            continue
        if t.device != parameter.device or not (
            t.dtype == parameter.dtype or (autocast and t.is_floating_point())
        ):
            raise ValueError(
                f"{name}: expected {parameter.dtype} on {parameter.device}, as the metanet's own "
                f"parameters, received {t.dtype} on {t.device}. Convert the tensors, or the "
                "metanet, with .to()."
            )


def check_tensors(
    module: nn.Module, graph: ParameterGraph, tensors: Mapping[str, Tensor], features: int = 0
) -> torch.Size:
    """The leading dimensions of ``tensors``, each ``[..., *shape]`` or ``[..., *shape, features]``.

    Raises ValueError for a graph without parameters, names or shapes that are not the graph's,
    leading dimensions that differ, and a dtype or device that is not that of ``module``.
    """
    layout = blocked(graph)
    if not any(layout.edge_counts):
        raise ValueError(
            "A metanet needs a graph with at least one parameter; this one has "
            f"{len(graph.groups)} groups of neurons and no edge between them. Trace a model that "
            "has parameters."
        )
    layout.check(tensors, features)
    check_kind(module, {name: tensors[name] for name in graph.shapes})
    lead: torch.Size | None = None
    for name, shape in graph.shapes.items():
        t = tensors[name]
        here = t.shape[: t.dim() - len(shape) - bool(features)]
        if lead is not None and here != lead:
            raise ValueError(
                f"{name}: expected the leading dimensions {list(lead)} of the tensors before it, "
                f"received {list(t.shape)}. All tensors of a batch must have the same."
            )
        lead = here
    assert lead is not None
    return lead
