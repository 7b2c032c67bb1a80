"""Parameter graphs for networkx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gmn_opt.extras import needs
from gmn_opt.graph.edges import KINDS, edge_list
from gmn_opt.graph.export.pyg import edge_values
from gmn_opt.graph.structure import BlockGraph

if TYPE_CHECKING:
    import networkx as nx  # type: ignore[import-untyped]


def to_networkx(graph: BlockGraph, tensors: Mapping[str, Tensor] | None = None) -> nx.MultiDiGraph:
    """The graph as a ``networkx.MultiDiGraph``, for its algorithms and for small networks.

    Nodes are the numbers of the neurons, with ``group``, ``role``, ``activation`` and ``place``.
    Edges have ``kind``; those with a parameter also ``tensor``, ``index`` (where in the tensor the
    element is) and ``kernel``, the position among parallel edges. ``value`` is a number, or a
    tuple of numbers for tensors ``[*shape, f]``; 1.0 on edges without a parameter.

    Raises:
        ValueError: As :func:`to_pyg`.
    """
    with needs("graph"):
        import networkx as nx

    edges = edge_list(graph)
    out = nx.MultiDiGraph()
    places = edges.node_place.tolist()
    for nodes in edges.nodes:
        for number in nodes.numbers:
            place = places[number] if places[number] >= 0 else None
            out.add_node(
                number, group=nodes.name, role=nodes.role, activation=nodes.activation, place=place
            )
    values = None if tensors is None else edge_values(graph, edges, tensors).detach().cpu()
    listed = [None] * edges.ends.shape[1] if values is None else values.tolist()
    for (src, dst), block, kind, kernel, place, value in zip(
        edges.ends.T.tolist(),
        edges.block.tolist(),
        edges.kind.tolist(),
        edges.kernel.tolist(),
        edges.position.tolist(),
        listed,
        strict=True,
    ):
        row: dict[str, Any] = {"kind": KINDS[kind]}
        if block >= 0:
            name = graph.blocks[block].tensor
            row |= {
                "tensor": name,
                "index": _index(place, graph.shapes[name]),
                "kernel": tuple(k for k in kernel if k >= 0),
            }
        if values is not None:
            row["value"] = tuple(value) if isinstance(value, list) else value
        elif block < 0:
            row["value"] = 1.0
        out.add_edge(src, dst, **row)
    return out


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        index.append(flat % size)
        flat //= size
    return tuple(reversed(index))
