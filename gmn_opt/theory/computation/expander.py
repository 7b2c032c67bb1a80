"""``computation_graph``: run a small model, and follow every element of every tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gmn_opt.graph.calls import is_statistic, undisturbed
from gmn_opt.theory.computation import (  # noqa: F401  (importing registers the rules)
    arithmetic,
    contraction,
    pooling,
    written,
)
from gmn_opt.theory.computation.structure import ComputationGraph, Edge, Label
from gmn_opt.theory.computation.table import RULES, WRITTEN_OUT

MAX_NODES = 20_000

_VIEWS = frozenset(
    {
        "_reshape_alias", "_unsafe_view", "alias", "cat", "clone", "contiguous",
        "detach", "expand", "permute", "repeat", "reshape", "select", "slice", "split",
        "split_with_sizes", "squeeze", "stack", "t", "transpose", "unbind", "unfold",
        "unsqueeze", "view",
    }
)  # fmt: skip
_UNARY = frozenset(
    {
        "abs", "clamp", "clamp_min", "cos", "elu", "eq", "erf", "exp", "expm1", "gelu",
        "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log", "log1p", "mish", "neg",
        "pow", "reciprocal", "relu", "rsqrt", "sigmoid", "silu", "sin", "softplus", "sqrt",
        "square", "tanh",
    }
)  # fmt: skip
_KNOWN = frozenset({"_to_copy", *_VIEWS, *_UNARY, *RULES, *WRITTEN_OUT})


def computation_graph(model: nn.Module, *inputs: Tensor) -> ComputationGraph:
    """The computation graph of a small model on inputs of the given shapes.

    Understands matrix products, convolutions, sums, means, maxima, products, concatenation,
    reshaping, common activation functions, pools, softmax and attention, embeddings, and norms
    (a batch norm in evaluation mode).

    Raises:
        NotImplementedError: For any other operator; the message names it.
        ValueError: If the graph has more than ``MAX_NODES`` nodes.
    """
    with undisturbed(model):
        expander = Expander(model)
        given = [x.detach().clone() for x in inputs]
        for x in given:
            numbers = expander.nodes("input", x.shape)
            expander.graph.inputs += numbers.reshape(-1).tolist()
            expander.set(x, numbers)
        with expander:
            output = model(*given)
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                found = expander.lift(expander.get(tensor))
                expander.graph.outputs += found.reshape(-1).tolist()
    return expander.graph


class Expander(TorchDispatchMode):
    """Follows every element of every tensor: nodes from 0 up, parameter elements from -1 down."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.graph = ComputationGraph()
        self.known: dict[int, tuple[Tensor, Tensor]] = {}
        self.labels: list[Label] = []
        self.ones: dict[str, int] = {}
        statistics = [(n, b) for n, b in model.named_buffers() if is_statistic(model, n)]
        for name, p in [*model.named_parameters(), *statistics]:
            first = len(self.labels)
            self.labels += [(name, i) for i in range(p.numel())]
            self.set(p, -1 - torch.arange(first, first + p.numel()).reshape(p.shape))
        self.buffers = {b.untyped_storage()._cdata for b in model.buffers()}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def set(self, tensor: Tensor, ids: Tensor) -> None:
        """Remember what the elements of a tensor are."""
        self.known[id(tensor)] = (tensor, ids)

    def get(self, tensor: Tensor) -> Tensor:
        """What the elements of a tensor are; constants where nothing is known.

        A tensor filled with one number is one constant; a buffer of the model never is, because
        its elements may differ another time.
        """
        if id(tensor) not in self.known:
            values = tensor.reshape(-1).tolist()
            of_model = tensor.untyped_storage()._cdata in self.buffers
            if len(set(values)) == 1 and not of_model:
                values = values[:1]
            ids = self.nodes("constant", (len(values),))
            self.graph.constants |= dict(zip(ids.tolist(), map(float, values), strict=True))
            self.set(tensor, ids.expand(tensor.numel()).reshape(tensor.shape))
        return self.known[id(tensor)][1]

    def node(self, op: str) -> int:
        """A new node."""
        if len(self.graph.ops) >= MAX_NODES:
            raise ValueError(
                f"The computation graph has more than {MAX_NODES:,} nodes. It is meant for tiny "
                "networks; use trace() and its parameter graph for others."
            )
        self.graph.ops.append(op)
        return len(self.graph.ops) - 1

    def nodes(self, op: str, shape: Sequence[int]) -> Tensor:
        """New nodes, one per element of a tensor."""
        numbers = [self.node(op) for _ in range(torch.Size(shape).numel())]
        return torch.tensor(numbers, dtype=torch.int64).reshape(tuple(shape))

    def lift(self, ids: Tensor) -> Tensor:
        """Parameter elements as nodes: a constant one, times the parameter."""
        return ids.clone().apply_(lambda i: i if i >= 0 else self._one_times(i))

    def _one_times(self, i: int) -> int:
        label = self.labels[-1 - i]
        new = self.node("sum")
        self.graph.edges.append(Edge(self._one(label[0]), new, label))
        return new

    def _one(self, name: str) -> int:
        """The bias node of a parameter."""
        if name not in self.ones:
            self.ones[name] = self.node("constant")
            self.graph.constants[self.ones[name]] = 1.0
        return self.ones[name]

    def into(self, dst: int, a: int, b: int | None = None, weight: float = 1.0) -> None:
        """Add ``a * b``, or ``a * weight``, to a node."""
        if b is None:
            if a >= 0:
                self.graph.edges.append(Edge(a, dst, None, weight))
            elif weight == 1.0:
                label = self.labels[-1 - a]
                self.graph.edges.append(Edge(self._one(label[0]), dst, label))
            else:
                self.graph.edges.append(Edge(self._one_times(a), dst, None, weight))
            return
        a, b = max(a, b), min(a, b)
        if a < 0:
            a = self._one_times(a)
        if b >= 0:
            new = self.node("product")
            self.graph.edges += [Edge(a, new), Edge(b, new), Edge(new, dst)]
        else:
            self.graph.edges.append(Edge(a, dst, self.labels[-1 - b]))

    def each(self, name: str, ids: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of every element."""

        def one(i: int) -> int:
            new = self.node(name)
            self.graph.functions[new] = function
            self.graph.edges.append(Edge(i, new))
            return new

        return self.lift(ids).apply_(one)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        in_place = name.endswith("_")
        name = name.removesuffix("_")
        involved = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if not any(id(t) in self.known for t in involved):
            return func(*args, **kwargs)
        if name not in _KNOWN and func._can_decompose():
            with self:
                composed = func.decompose(*args, **kwargs)
            if composed is not NotImplemented:
                return composed
        if name in WRITTEN_OUT:
            with self:
                parts = WRITTEN_OUT[name](*args, **kwargs)
            out = func(*args, **kwargs)
            made = tree_map(lambda x: self.get(x) if isinstance(x, Tensor) else x, parts)
        else:
            before = {id(t): self.get(t) for t in involved}
            out = func(*args, **kwargs)
            ids = tree_map(lambda x: before[id(x)] if isinstance(x, Tensor) else x, args)
            made = self._made(func, name, in_place, out, ids, kwargs)
        for tensor, found in zip(_flat(out), _flat(made), strict=True):
            if isinstance(found, Tensor):
                self.set(args[0] if in_place else tensor, found)
        return out

    def _made(
        self, func: Any, name: str, in_place: bool, out: Any, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """What the elements of an operator's output are."""
        if name == "_to_copy":
            return args[0].clone()
        if name in _VIEWS and not in_place:
            return func(*args, **kwargs)
        if name in RULES:
            return RULES[name](self, out, *args, **kwargs)
        more = args[1:]
        if (
            name in _UNARY
            and isinstance(args[0], Tensor)
            and not any(isinstance(x, Tensor) for x in more)
        ):
            title = " ".join([name, *map(str, more), *(f"{k}={v}" for k, v in kwargs.items())])
            return self.each(title, args[0], lambda x: func(x.clone(), *more, **kwargs))
        raise NotImplementedError(f"No computation graph: the operator {name!r} is not known.")


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
