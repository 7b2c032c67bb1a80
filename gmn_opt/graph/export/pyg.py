"""Parameter graphs as torch_geometric ``Data``.

There is one node per neuron and exactly one edge per parameter element, numbered and typed as in
:mod:`gmn_opt.graph.edges` (Lim et al. 2023, arXiv 2312.04501, section 2). What a symmetry of the
network moves is no feature here, so that networks which differ by a symmetry become isomorphic
graphs: places along free axes are left out, kernel positions and places of inputs and outputs kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gmn_opt.extras import needs
from gmn_opt.graph.edges import ROLES, EdgeList, edge_list
from gmn_opt.graph.structure import BlockGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data


#: Columns of the int64 node features ``x``.
NODE_COLUMNS = ("group", "role", "activation", "place")
#: Columns of the int32 edge features ``edge_conv``; 0 for edges that belong to no convolution.
CONV_COLUMNS = ("stride", "dilation", "groups", "padding", "transposed")
#: Known nonlinearities: code 0 is none, the last one any other. New ones go before the last.
ACTIVATIONS = (
    *("none", "relu", "relu6", "leaky_relu", "_prelu_kernel", "prelu", "rrelu_with_noise"),
    *("elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign", "sigmoid"),
    *("log_sigmoid_forward", "tanh", "hardtanh", "hardsigmoid", "hardswish", "threshold"),
    *("sin", "cos", "exp", "erf", "abs", "square", "softmax", "other"),
)


def to_pyg(graph: BlockGraph, tensors: Mapping[str, Tensor]) -> Data:
    """Named tensors as a ``torch_geometric.data.Data``; :func:`from_pyg` is its exact inverse.

    Differentiable with respect to the tensors. Graphs of different networks may be batched.

    Args:
        graph: The parameter graph that the names belong to.
        tensors: One tensor per parameter, all ``[*shape]`` or all ``[*shape, f]`` with the same
            number of features, such as values and gradients.

    Returns:
        Data with ``N`` nodes and ``E`` edges:

        - ``x`` int64 ``[N, 4]``, columns :data:`NODE_COLUMNS`: number of the group; code of the
          role in ``edges.ROLES``; code of the activation in :data:`ACTIVATIONS`; place along the
          fixed axes of the group (inputs, outputs, grid cells), -1 where there is none.
        - ``edge_index`` int64 ``[2, E]``: from source to destination neuron.
        - ``edge_attr`` ``[E]`` or ``[E, f]``, in the tensors' dtype (in the smallest one that
          holds all of them where they differ): the tensors' elements; 1 on edges without any.
        - ``edge_mask`` bool ``[E]``: whether the edge has a parameter.
        - ``edge_kind`` int32 ``[E]``: code of the kind in ``edges.KINDS``.
        - ``edge_block`` int32 ``[E]``: position in ``graph.blocks``, or -1.
        - ``edge_place`` int64 ``[E]``: flat position of the element in its tensor, or -1.
        - ``edge_kernel`` int32 ``[E, 3]``: kernel position, -1 for axes that are not there.
        - ``edge_conv`` int32 ``[E, 5]``, columns :data:`CONV_COLUMNS`.
        - ``dtypes``: the tensors' dtypes by name, in the graph's order.

    Raises:
        ValueError: If names or shapes are not those of the graph; the message names the tensor.
    """
    with needs("graph"):
        from torch_geometric.data import Data

    edges = edge_list(graph)
    values = edge_values(graph, edges, tensors)
    device = values.device
    return Data(
        x=node_features(edges).to(device),
        edge_index=edges.ends.to(device),
        edge_attr=values,
        edge_mask=(edges.block >= 0).to(device),
        edge_kind=edges.kind.to(device),
        edge_block=edges.block.to(device),
        edge_place=edges.position.to(device),
        edge_kernel=edges.kernel.to(device),
        edge_conv=conv_features(graph, edges).to(device),
        dtypes=[str(tensors[n].dtype).removeprefix("torch.") for n in graph.shapes],
    )


def from_pyg(graph: BlockGraph, data: Data) -> dict[str, Tensor]:
    """The tensors behind ``data.edge_attr`` by name; the inverse of :func:`to_pyg`.

    Edges may come in any order, and their features may have been replaced by others: elements
    ``[E]`` give tensors ``[*shape]``, ``[E, f]`` give ``[*shape, f]``.

    Raises:
        ValueError: If an element of a parameter has no edge, or several.
    """
    for name in ("edge_attr", "edge_block", "edge_place"):
        if not isinstance(getattr(data, name, None), Tensor):
            raise ValueError(f"The data has no {name!r}: pass what graph.to_pyg() returned.")
    values, block, place = data.edge_attr, data.edge_block, data.edge_place
    if not values.shape[0] == len(block) == len(place) or values.dim() not in (1, 2):
        raise ValueError(
            f"edge_attr: expected shape [{len(block)}] or [{len(block)}, features], received "
            f"{list(values.shape)}. Keep one row per edge."
        )
    sizes = {name: prod(shape) for name, shape in graph.shapes.items()}
    starts, total = {}, 0
    for name, size in sizes.items():
        starts[name], total = total, total + size
    if len(block) and int(block.max()) >= len(graph.blocks):
        raise ValueError("The data has blocks that the graph does not have: another network's?")
    start_of = torch.tensor([starts[b.tensor] for b in graph.blocks] or [0], device=block.device)
    rows = (block >= 0).nonzero().squeeze(1)
    slots = start_of[block[rows].long()] + place[rows]
    if len(slots) != total or not torch.equal(
        slots.sort().values, torch.arange(total, device=slots.device)
    ):
        raise ValueError(
            f"Expected one edge for each of the {total} parameter elements, received "
            f"{len(slots)} edges with {slots.unique().numel()} different elements."
        )
    ordered = values[rows[slots.argsort()]]
    kept = _kept_dtypes(graph, data, values)
    out = {}
    for (name, shape), part in zip(
        graph.shapes.items(), ordered.split(list(sizes.values())), strict=True
    ):
        out[name] = part.reshape((*shape, *values.shape[1:]))
        if name in kept:
            out[name] = out[name].to(kept[name])
    return out


def _kept_dtypes(graph: BlockGraph, data: Data, values: Tensor) -> dict[str, torch.dtype]:
    """The tensors' own dtypes where they differed and the features still have their common one."""
    dtypes = getattr(data, "dtypes", None) or []
    if len(dtypes) != len(graph.shapes):
        return {}
    found = {n: getattr(torch, d) for n, d in zip(graph.shapes, dtypes, strict=True)}
    if len(set(found.values())) < 2 or values.dtype != _common(found.values()):
        return {}
    return found


def _common(dtypes: Any) -> torch.dtype:
    found: torch.dtype = reduce(torch.promote_types, dtypes)
    return found


def edge_values(graph: BlockGraph, edges: EdgeList, tensors: Mapping[str, Tensor]) -> Tensor:
    """Elements of named tensors edge by edge, ``[E]`` or ``[E, f]``; 1 without a parameter."""
    _check(graph, tensors)
    if not graph.shapes:
        return torch.ones(edges.ends.shape[1])
    dtype = _common(t.dtype for t in tensors.values())
    parts = []
    counts = torch.bincount(edges.block[edges.block >= 0].long(), minlength=len(graph.blocks))
    places = edges.position[: edges.parameters].split(counts.tolist())
    for block, place in zip(graph.blocks, places, strict=True):
        tensor = tensors[block.tensor]
        tail = tensor.shape[len(graph.shapes[block.tensor]) :]
        flat = tensor.reshape((prod(graph.shapes[block.tensor]), *tail))
        parts.append(flat[place.to(tensor.device)].to(dtype))
    plain = edges.ends.shape[1] - edges.parameters
    return torch.cat([*parts, parts[0].new_ones(plain, *parts[0].shape[1:])])


def _check(graph: BlockGraph, tensors: Mapping[str, Tensor]) -> None:
    missing = [n for n in graph.shapes if n not in tensors]
    extra = [n for n in tensors if n not in graph.shapes]
    if missing or extra:
        raise ValueError(
            f"The tensors do not match the graph: missing {missing[:5]}, unexpected {extra[:5]}. "
            "Pass one tensor per parameter, such as dict(model.named_parameters())."
        )
    tails = set()
    for name, shape in graph.shapes.items():
        got = tuple(tensors[name].shape)
        if got[: len(shape)] != shape or len(got) > len(shape) + 1:
            raise ValueError(
                f"{name}: expected shape {list(shape)} or {[*shape, 'features']}, received "
                f"{list(got)}."
            )
        tails.add(got[len(shape) :])
    if len(tails) > 1:
        raise ValueError(
            f"The tensors have different numbers of features: {sorted(tails)}. "
            "Pass all of them as [*shape], or all as [*shape, f]."
        )


def node_features(edges: EdgeList) -> Tensor:
    """int64 ``[N, 4]``, columns :data:`NODE_COLUMNS`."""
    rows = [(n, ROLES.index(s.role), _activation(s.activation)) for n, s in enumerate(edges.nodes)]
    known = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)[edges.node_set]
    return torch.cat([known, edges.node_place[:, None]], 1)


def _activation(name: str | None) -> int:
    if name is None:
        return 0
    return ACTIVATIONS.index(name if name in ACTIVATIONS else "other")


def conv_features(graph: BlockGraph, edges: EdgeList) -> Tensor:
    """int32 ``[E, 5]``, columns :data:`CONV_COLUMNS`."""
    rows = [[int(b.attributes.get(c, 0)) for c in CONV_COLUMNS] for b in graph.blocks]
    table = torch.tensor([*rows, [0] * len(CONV_COLUMNS)], dtype=torch.int32)
    return table[edges.block.long()]
