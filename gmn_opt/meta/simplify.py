"""Removing operators that do nothing from a recorded graph.

``vmap`` leaves many of them: views to the shape that a tensor has already, expansions by nothing,
two transpositions that cancel, products with one. Each costs as much as a small matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

_ATEN = torch.ops.aten
_VIEWS = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default)


def _layout(node: Any) -> Any:
    value = node.meta.get("val", None)
    if value is None:
        value = node.meta.get("tensor_meta", None)
    if value is None:
        return None
    stride = value.stride() if callable(value.stride) else value.stride
    return tuple(value.shape), tuple(stride), value.dtype


def _same_as(node: Node) -> Node | None:
    """An earlier node whose value is that of ``node``, bit by bit."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    source = node.args[0]
    if node.target in _VIEWS and _layout(node) is not None and _layout(node) == _layout(source):
        return source
    if node.target is _ATEN.transpose.int and source.target is _ATEN.transpose.int:
        inner = source.args[0]
        if isinstance(inner, Node) and source.args[1:] == node.args[1:]:
            return inner
    if node.target is _ATEN.mul.Scalar and node.args[1] == 1:
        return source if _layout(node) == _layout(source) else None
    return None


def simplify(graph: GraphModule) -> GraphModule:
    """Take out what does nothing; the result computes the same numbers."""
    for node in list(graph.graph.nodes):
        if (same := _same_as(node)) is not None:
            node.replace_all_uses_with(same)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
