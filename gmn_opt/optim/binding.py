"""Which parameter of an optimizer stands where in which graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.metanet import blocked
from gmn_opt.optim.assembled import assembled_inputs, assembled_twin, has_shards
from gmn_opt.optim.capture import Inputs
from gmn_opt.optim.gradients import as_real, compute_dtype, real_shape
from gmn_opt.optim.sharded import whole
from gmn_opt.optim.twin import traceable_twin


class GraphWarning(UserWarning):
    """The optimizer works without the structure of the network."""


@dataclass(frozen=True)
class Binding:
    """A graph and the tensor behind each of its names.

    ``tensors`` may hold parameters of the model that the optimizer does not train: the metanet
    sees them, and they are never changed. The same holds for complex parameters in the graph of a
    model: it has one edge for each number, and they need two.
    """

    graph: ParameterGraph
    tensors: dict[str, Tensor]

    @property
    def trainable(self) -> dict[str, Tensor]:
        """Those whose real numbers are the edges of the graph."""
        return {n: p for n, p in self.tensors.items() if real_shape(p) == self.graph.shapes[n]}

    def values(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Numbers for every name of the graph, detached; magnitudes of what is no edge."""
        found = {}
        for name, p in self.tensors.items():
            edges = real_shape(p) == self.graph.shapes[name]
            found[name] = (as_real(whole(p)) if edges else whole(p).abs()).to(dtype)
        return found

    @cached_property
    def graph_digest(self) -> str:
        """The same where the graph is."""
        return hashlib.sha256(self.graph.to_json().encode()).hexdigest()

    @property
    def is_current(self) -> bool:
        """Whether all tensors still have the shapes of the graph, on one device."""
        shapes = self.graph.shapes
        devices = {p.device for p in self.tensors.values()}
        return len(devices) == 1 and all(
            shapes[name] in (tuple(p.shape), real_shape(p)) for name, p in self.tensors.items()
        )


def bind_traced(model: nn.Module, inputs: Inputs) -> Binding | None:
    """Trace ``model`` on ``inputs`` and bind its parameters; None when it has none to bind.

    The model itself is not called, but a twin without the user's hooks (``gmn_opt.optim.twin``);
    where that fails, a twin that records gradients, for models that differentiate in their forward
    pass. Raises whatever goes wrong on the way to a graph with a layout, on tensors of one device.
    """
    args, kwargs = inputs
    if any(isinstance(leaf, Tensor) and leaf.is_nested for leaf in tree_leaves(inputs)):
        # inside torch, an error on their way through a trace would end the process
        raise RuntimeError("it was called on a nested tensor, which has no one shape to follow")
    named = dict(model.named_parameters())
    wanted = [isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(inputs)]
    if has_shards(model):
        model, (args, kwargs) = assembled_twin(model), assembled_inputs(inputs)
    try:
        graph = trace(traceable_twin(model), *args, **kwargs)
    except Exception:
        graph = trace(traceable_twin(model, record=True, wanted=wanted), *args, **kwargs)
    graph = without_empty(graph.contract())
    tensors: dict[str, Tensor] = {name: named[name] for name in graph.shapes}
    devices = sorted({str(p.device) for p in tensors.values()})
    if len(devices) > 1:
        raise RuntimeError(f"its parameters are spread over {devices}")
    if not tensors:
        return None
    blocked(graph)
    return Binding(graph, tensors)


def without_empty(graph: ParameterGraph) -> ParameterGraph:
    """``graph`` without tensors that have no elements."""
    empty = {name for name, shape in graph.shapes.items() if 0 in shape}
    if not empty:
        return graph
    return replace(
        graph,
        shapes={n: shape for n, shape in graph.shapes.items() if n not in empty},
        blocks=tuple(b for b in graph.blocks if b.tensor not in empty),
    )


def bind_islands(params: Sequence[Tensor]) -> list[Binding]:
    """Graphs without structure, one for each device: every parameter stands alone."""
    found: dict[torch.device, dict[str, Tensor]] = {}
    for i, p in enumerate(params):
        found.setdefault(p.device, {})[f"param_{i}"] = p
    return [
        Binding(ParameterGraph.islands({n: real_shape(p) for n, p in named.items()}), named)
        for named in found.values()
    ]


def save_binding(
    binding: Binding, position: Mapping[int, int], thought: Tensor | None, traced: bool
) -> dict[str, Any]:
    """A binding and what a rule thinks about its graph, in plain values.

    Args:
        binding: what is saved.
        position: of the optimizer's parameters by their ``id``.
        thought: a flat tensor, if there is one.
        traced: whether the graph is saved; without it, every tensor is an island.
    """
    names = {n: position[id(p)] for n, p in binding.tensors.items() if id(p) in position}
    return {
        "graph": binding.graph.to_json() if traced else None,
        "params": names,
        "traced": traced,
        "thought": None if thought is None else thought.detach().double().flatten().tolist(),
    }


def load_binding(
    saved: Mapping[str, Any], params: Sequence[Tensor], owned: Mapping[str, Tensor]
) -> Binding | None:
    """The inverse of :func:`save_binding`; None when its tensors are not all known.

    A name means the tensor of that name in ``owned`` if its shape is the same, and otherwise the
    parameter at the position that was saved with it.
    """
    if saved["graph"] is None:
        chosen = [params[i] for i in saved["params"].values() if i < len(params)]
        return Binding(ParameterGraph.islands({}), {str(i): p for i, p in enumerate(chosen)})
    graph = ParameterGraph.from_json(saved["graph"])
    tensors: dict[str, Tensor] = {}
    for name, shape in graph.shapes.items():
        index = saved["params"].get(name, len(params))
        for p in (owned.get(name), params[index] if index < len(params) else None):
            if p is not None and shape in (tuple(p.shape), real_shape(p)):
                tensors[name] = p
                break
    return Binding(graph, tensors) if len(tensors) == len(graph.shapes) else None


def load_thought(saved: Mapping[str, Any], binding: Binding) -> Tensor | None:
    """What was saved of a rule's thought, exactly, where the tensors are."""
    if saved["thought"] is None or not binding.tensors:
        return None
    dtypes = [compute_dtype(p) for p in binding.tensors.values()]
    device = next(iter(binding.tensors.values())).device
    dtype = max(dtypes, key=lambda d: d.itemsize)
    return torch.tensor(saved["thought"], dtype=dtype, device=device)


def digest(bindings: Sequence[Binding], params: Sequence[Tensor]) -> int:
    """62 bits that are the same where the graphs and the places of ``params`` in them are."""
    position = {id(p): i for i, p in enumerate(params)}
    found = hashlib.sha256()
    for binding in bindings:
        places = [(name, position.get(id(p))) for name, p in binding.tensors.items()]
        found.update(f"{binding.graph_digest} {places}".encode())
    return int.from_bytes(found.digest()[:8], "big") >> 2
