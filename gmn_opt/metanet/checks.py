"""What must hold of the options of a metanet, and of the tensors that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gmn_opt.metanet.layout import BlockedGraph, blocked

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph
    from gmn_opt.metanet.model import GraphMetanet


def check_options(backend: str, scale: str | None, checkpoint: bool, node_inputs: int) -> None:
    """Raise ValueError for options of a `GraphMetanet` that do not exist, or clash."""
    if backend not in ("blocked", "sparse"):
        raise ValueError(f"backend must be 'blocked' or 'sparse', received {backend!r}.")
    if scale not in (None, "sign", "positive", "auto"):
        raise ValueError(f"scale must be 'sign', 'positive', 'auto' or None, received {scale!r}.")
    if scale is not None and node_inputs:
        raise ValueError(
            "node_inputs are read as they are, so that a metanet with scale= would no longer "
            f"be equivariant to scales; received node_inputs={node_inputs}, scale={scale!r}."
        )
    if scale is not None and checkpoint:
        raise ValueError("A metanet with scale= has no checkpointed rounds.")


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


def check_edges(metanet: GraphMetanet, layout: BlockedGraph, edges: Tensor) -> None:
    """Raise ValueError unless ``edges`` are features ``[..., in_features, P]`` for this graph."""
    want = (metanet.in_features, sum(layout.edge_counts))
    if edges.shape[-2:] != want or not want[1]:
        raise ValueError(
            f"Expected edge features of shape [..., {want[0]}, {want[1]}] for the "
            f"{len(layout.blocks)} blocks of this graph, received {list(edges.shape)}; a metanet "
            "needs a graph with at least one parameter."
        )
    check_kind(metanet, {"edge features": edges})


def check_inputs(
    metanet: GraphMetanet,
    layout: BlockedGraph,
    lead: torch.Size,
    block_inputs: Tensor | None,
    node_inputs: Tensor | None,
) -> None:
    """Raise ValueError for inputs that are not those the metanet was made with.

    Args:
        metanet: It says how many there are.
        layout: Of the graph.
        lead: Leading dimensions of the edge features.
        block_inputs: ``[..., blocks, block_inputs]`` or None.
        node_inputs: ``[..., N, node_inputs]`` or None.

    Leading dimensions may be missing, or 1, where all networks of a batch get the same.
    """
    for what, given, rows, count in (
        ("block", block_inputs, len(layout.blocks), metanet.block_inputs),
        ("node", node_inputs, sum(layout.group_sizes), metanet.node_inputs),
    ):
        if given is None and not count:
            continue
        if given is None or not count or given.shape[-2:] != (rows, count):
            raise ValueError(
                f"This metanet takes {count} inputs per {what}, for this graph "
                f"[..., {rows}, {count}], received {None if given is None else list(given.shape)}."
            )
        here = given.shape[:-2]
        pairs = zip(reversed(here), reversed(lead), strict=False)
        if len(here) > len(lead) or any(n not in (1, m) for n, m in pairs):
            raise ValueError(
                f"{what}_inputs: expected the leading dimensions {list(lead)} of the tensors, or "
                f"none for the same inputs to all, received {list(given.shape)}."
            )
    check_kind(metanet, {"block_inputs": block_inputs, "node_inputs": node_inputs})


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
