"""Computation graphs of small networks, and their automorphisms.

Where a parameter graph has one edge per parameter, the computation graph (Lim et al. 2023,
arXiv 2312.04501, section 2) has one edge per *use*: a convolution is unrolled over all positions,
a layer that is applied three times occurs three times. It is far too large for real networks, and
here for theory: the paper's automorphisms are permutations of its neurons that keep inputs,
outputs and constants in place and respect which edges share a parameter. Each moves parameters,
without changing the function. The tests enumerate them by brute force on tiny networks, and find
exactly the group that :meth:`ParameterGraph.random_symmetry` draws from.

Beyond the paper, activation functions are nodes of their own (with one incoming edge), and so are
products of activations, so that attention is covered. Sharing is kept within tensors: an exchange
of two parallel layers of the same shape, as a whole, is not counted as an automorphism.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Label = tuple[str, int]
"""A parameter's name and the flat position of an element of it."""

MAX_NODES = 20_000

_VIEWS = frozenset(
    {
        "_reshape_alias", "_unsafe_view", "alias", "cat", "clone", "contiguous", "detach",
        "expand", "permute", "reshape", "select", "slice", "split", "split_with_sizes",
        "squeeze", "stack", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
    }
)  # fmt: skip
_UNARY = frozenset(
    {
        "abs", "cos", "elu", "exp", "gelu", "leaky_relu", "log", "neg", "pow", "reciprocal",
        "relu", "rsqrt", "sigmoid", "silu", "sin", "softplus", "sqrt", "square", "tanh",
    }
)  # fmt: skip


class Edge(NamedTuple):
    """One use of a parameter, or of the constant ``weight`` where ``label`` is None."""

    src: int
    dst: int
    label: Label | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Automorphism:
    """A permutation of nodes, and of the parameter elements that their edges carry."""

    nodes: tuple[int, ...]
    labels: dict[Label, Label]

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """For every element of every parameter, the flat position that it moves to."""
        out = {}
        for name, shape in shapes.items():
            flat = torch.arange(torch.Size(shape).numel())
            for (tensor, i), (_, j) in self.labels.items():
                if tensor == name:
                    flat[i] = j
            out[name] = flat.reshape(shape)
        return out


@dataclass
class ComputationGraph:
    """Numbered nodes and the edges between them.

    Attributes:
        ops: What every node computes of its incoming edges: ``"input"``, ``"constant"``,
            ``"sum"``, ``"product"``, or the name and settings of a function of a single edge.
        edges: All uses of parameters and activations.
        inputs: Nodes of the inputs' elements.
        outputs: Nodes of the outputs' elements.
        constants: Node to its value; the ones that biases are multiplied with are among them.
        functions: Node to its activation function.
    """

    ops: list[str] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: dict[int, float] = field(default_factory=dict)
    functions: dict[int, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def evaluate(self, parameters: Mapping[str, Tensor], inputs: Sequence[float]) -> list[float]:
        """The outputs' elements for given parameters and inputs' elements."""
        incoming: list[list[Edge]] = [[] for _ in self.ops]
        for edge in self.edges:
            incoming[edge.dst].append(edge)
        flat = {n: p.detach().reshape(-1).tolist() for n, p in parameters.items()}
        given = dict(zip(self.inputs, inputs, strict=True)) | self.constants
        values: dict[int, float] = {}
        before = {node: [e.src for e in found] for node, found in enumerate(incoming)}
        for node in TopologicalSorter(before).static_order():
            op = self.ops[node]
            if node in given:
                values[node] = float(given[node])
                continue
            terms = [
                values[e.src] * (e.weight if e.label is None else flat[e.label[0]][e.label[1]])
                for e in incoming[node]
            ]
            if op == "sum":
                values[node] = sum(terms)
            elif op == "product":
                values[node] = prod(terms)
            else:
                value = torch.tensor(terms, dtype=torch.float64)
                values[node] = float(self.functions[node](value))
        return [values[n] for n in self.outputs]

    def automorphisms(self) -> Iterator[Automorphism]:
        """All permutations of hidden nodes that leave the graph and its sharing as they are."""
        shared = _Shared(self)
        for image in shared.automorphisms():
            labels = {
                label: shared.labels[image[shared.label_node[label]] - shared.first_label]
                for label in shared.labels
            }
            yield Automorphism(tuple(image[: len(self.ops)]), labels)


def computation_graph(model: nn.Module, *inputs: Tensor) -> ComputationGraph:
    """The computation graph of a small model on inputs of the given shapes.

    Understands matrix products, convolutions, sums, means, products, concatenation, reshaping
    and common activation functions.

    Raises:
        NotImplementedError: For any other operator; the message names it.
        ValueError: If the graph has more than ``MAX_NODES`` nodes.
    """
    expander = _Expander(model)
    given = [x.detach().clone() for x in inputs]
    for x in given:
        numbers = [expander.node("input") for _ in range(x.numel())]
        expander.graph.inputs += numbers
        expander.set(x, torch.tensor(numbers, dtype=torch.int64).reshape(x.shape))
    with torch.no_grad(), expander:
        output = model(*given)
    for tensor in tree_leaves(output):
        if isinstance(tensor, Tensor):
            expander.graph.outputs += expander.lift(expander.get(tensor)).reshape(-1).tolist()
    return expander.graph


class _Expander(TorchDispatchMode):
    """Follows every element of every tensor: nodes from 0 up, parameter elements from -1 down."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.graph = ComputationGraph()
        self.known: dict[int, tuple[Tensor, Tensor]] = {}
        self.labels: list[Label] = []
        self.ones: dict[str, int] = {}
        for name, p in model.named_parameters():
            first = len(self.labels)
            self.labels += [(name, i) for i in range(p.numel())]
            self.set(p, -1 - torch.arange(first, first + p.numel()).reshape(p.shape))

    def set(self, tensor: Tensor, ids: Tensor) -> None:
        """Remember what the elements of a tensor are."""
        self.known[id(tensor)] = (tensor, ids)

    def get(self, tensor: Tensor) -> Tensor:
        """What the elements of a tensor are; constants where nothing is known."""
        if id(tensor) not in self.known:
            ids = [self.node("constant") for _ in range(tensor.numel())]
            self.graph.constants |= dict(zip(ids, tensor.reshape(-1).tolist(), strict=True))
            self.set(tensor, torch.tensor(ids, dtype=torch.int64).reshape(tensor.shape))
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

    # ------------------------------------------------------------------ operators

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
        before = {id(t): self.get(t) for t in involved}
        out = func(*args, **kwargs)
        ids = tree_map(lambda x: before[id(x)] if isinstance(x, Tensor) else x, args)
        if name in _VIEWS and not in_place:
            made = func(*ids, **kwargs)
        elif name in _UNARY:
            more = args[1:]
            title = " ".join([name, *map(str, more), *(f"{k}={v}" for k, v in kwargs.items())])
            made = self._each(title, ids[0], lambda x: func(x.clone(), *more, **kwargs))
        elif hasattr(self, f"_op_{name}"):
            made = getattr(self, f"_op_{name}")(out, *ids, **kwargs)
        else:
            raise NotImplementedError(f"No computation graph: the operator {name!r} is not known.")
        for tensor, found in zip(tree_leaves(out), tree_leaves(made), strict=True):
            self.set(args[0] if in_place else tensor, found)
        return out

    def _each(self, name: str, ids: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of every element."""

        def one(i: int) -> int:
            new = self.node(name)
            self.graph.functions[new] = function
            self.graph.edges.append(Edge(i, new))
            return new

        return self.lift(ids).apply_(one)

    def _sums(self, shape: Sequence[int]) -> Tensor:
        """New nodes that add up what is led into them."""
        count = torch.Size(shape).numel()
        numbers = [self.node("sum") for _ in range(count)]
        return torch.tensor(numbers, dtype=torch.int64).reshape(tuple(shape))

    def _terms(self, out: Tensor, parts: Sequence[Any], weights: Sequence[float]) -> Tensor:
        new = self._sums(out.shape)
        for part, weight in zip(parts, weights, strict=True):
            flat = part.expand(out.shape).reshape(-1).tolist()
            for dst, a in zip(new.reshape(-1).tolist(), flat, strict=True):
                self.into(dst, a, None, weight)
        return new

    def _op_add(self, out: Tensor, a: Tensor, b: Any, *, alpha: float = 1) -> Tensor:
        return self._terms(out, [a, self._tensor(b)], [1.0, float(alpha)])

    def _op_sub(self, out: Tensor, a: Tensor, b: Any, *, alpha: float = 1) -> Tensor:
        return self._terms(out, [a, self._tensor(b)], [1.0, -float(alpha)])

    def _op_mul(self, out: Tensor, a: Tensor, b: Any) -> Tensor:
        if not isinstance(b, Tensor):
            return self._terms(out, [a], [float(b)])
        new = self._sums(out.shape)
        pairs = (x.expand(out.shape).reshape(-1).tolist() for x in (a, b))
        for dst, x, y in zip(new.reshape(-1).tolist(), *pairs, strict=True):
            self.into(dst, x, y)
        return new

    def _op_div(self, out: Tensor, a: Tensor, b: Any) -> Tensor:
        if not isinstance(b, Tensor):
            return self._terms(out, [a], [1.0 / float(b)])
        return self._op_mul(out, a, self._each("reciprocal", b, torch.reciprocal))

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        return self.get(torch.tensor(float(value), dtype=torch.float64))

    def _op_sum(self, out: Tensor, a: Tensor, dim: Any = None, *rest: Any, **_: Any) -> Tensor:
        return self._reduce(out, a, dim, 1.0)

    def _op_mean(self, out: Tensor, a: Tensor, dim: Any = None, *rest: Any, **_: Any) -> Tensor:
        return self._reduce(out, a, dim, out.numel() / max(a.numel(), 1))

    def _reduce(self, out: Tensor, a: Tensor, dim: Any, weight: float) -> Tensor:
        dims = list(range(a.dim())) if not dim and dim != 0 else dim
        dims = [d % a.dim() for d in ([dims] if isinstance(dims, int) else dims)]
        kept = [d for d in range(a.dim()) if d not in dims]
        rows = a.permute(*kept, *dims).reshape(out.numel(), -1).tolist()
        new = self._sums(out.shape)
        for dst, row in zip(new.reshape(-1).tolist(), rows, strict=True):
            for i in row:
                self.into(dst, i, None, weight)
        return new

    def _op_mm(self, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        new = self._sums(out.shape)
        for i, j, k in product(range(a.shape[0]), range(b.shape[1]), range(a.shape[1])):
            self.into(int(new[i, j]), int(a[i, k]), int(b[k, j]))
        return new

    def _op_addmm(self, out: Tensor, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
        new = self._op_mm(out, a, b)
        flat = bias.expand(out.shape).reshape(-1).tolist()
        for dst, i in zip(new.reshape(-1).tolist(), flat, strict=True):
            self.into(dst, i)
        return new

    def _op_bmm(self, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([self._op_mm(o, x, y) for o, x, y in zip(out, a, b, strict=True)])

    def _op_convolution(
        self, out: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, stride: Sequence[int],
        padding: Sequence[int], dilation: Sequence[int], transposed: bool, _: Any, groups: int,
    ) -> Tensor:  # fmt: skip
        if transposed:
            raise NotImplementedError("No computation graph: a transposed convolution.")
        new = self._sums(out.shape)
        kernel, sizes = w.shape[2:], x.shape[2:]
        per_in, per_out = w.shape[1], w.shape[0] // groups
        for n, o in product(range(out.shape[0]), range(out.shape[1])):
            for place in product(*(range(s) for s in out.shape[2:])):
                dst = int(new[(n, o, *place)])
                for c, at in product(range(per_in), product(*(range(k) for k in kernel))):
                    where = [
                        p * s - m + k * d
                        for p, s, m, k, d in zip(place, stride, padding, at, dilation, strict=True)
                    ]
                    if all(0 <= i < size for i, size in zip(where, sizes, strict=True)):
                        source = x[(n, o // per_out * per_in + c, *where)]
                        self.into(dst, int(source), int(w[(o, c, *at)]))
                if bias is not None:
                    self.into(dst, int(bias[o]))
        return new


class _Shared:
    """A computation graph as a plain coloured graph whose automorphisms respect sharing.

    Every edge and every parameter element become vertices too; an edge's vertex is joined with
    its ends and with its parameter element. Automorphisms are enumerated by individualization and
    refinement: give one vertex a colour of its own, refine colours by those of neighbours, repeat.
    """

    def __init__(self, graph: ComputationGraph) -> None:
        self.labels = sorted({e.label for e in graph.edges if e.label is not None})
        self.first_label = len(graph.ops)
        self.label_node = {x: self.first_label + i for i, x in enumerate(self.labels)}
        pinned = {*graph.inputs, *graph.outputs, *graph.constants}
        colors: list[Any] = [
            ("node", i if i in pinned else -1, op) for i, op in enumerate(graph.ops)
        ]
        colors += [("parameter", name) for name, _ in self.labels]
        self.arcs: list[tuple[int, int, int]] = []
        for e in graph.edges:
            vertex = len(colors)
            colors.append(("edge", e.weight))
            self.arcs += [(e.src, vertex, 0), (vertex, e.dst, 1)]
            if e.label is not None:
                self.arcs.append((self.label_node[e.label], vertex, 2))
        names = {c: i for i, c in enumerate(sorted(set(colors), key=repr))}
        self.start = [names[c] for c in colors]
        self.near: list[list[tuple[int, int]]] = [[] for _ in colors]
        for a, b, kind in self.arcs:
            self.near[a].append((2 * kind, b))
            self.near[b].append((2 * kind + 1, a))
        self.arc_count = Counter(self.arcs)

    def refine(self, colors: list[int]) -> list[int]:
        """Split colours by the colours around until nothing changes; names are canonical."""
        while True:
            seen = [
                (c, tuple(sorted((kind, colors[n]) for kind, n in near)))
                for c, near in zip(colors, self.near, strict=True)
            ]
            names = {s: i for i, s in enumerate(sorted(set(seen)))}
            if len(names) == len(set(colors)):
                return [names[s] for s in seen]
            colors = [names[s] for s in seen]

    def automorphisms(self) -> Iterator[list[int]]:
        """Images of all vertices."""
        start = self.refine(self.start)
        yield from self._search(start, start)

    def _search(self, here: list[int], there: list[int]) -> Iterator[list[int]]:
        if Counter(here) != Counter(there):
            return
        sizes = Counter(here)
        open_ = [c for c in here if sizes[c] > 1]
        if not open_:
            where = {c: i for i, c in enumerate(there)}
            image = [where[c] for c in here]
            moved = Counter((image[a], image[b], kind) for a, b, kind in self.arcs)
            if moved == self.arc_count:
                yield image
            return
        color, fresh = min(open_), len(here)
        chosen = here.index(color)
        mine = self.refine([fresh if i == chosen else c for i, c in enumerate(here)])
        for other in (i for i, c in enumerate(there) if c == color):
            theirs = self.refine([fresh if i == other else c for i, c in enumerate(there)])
            yield from self._search(mine, theirs)


__all__ = ["Automorphism", "ComputationGraph", "Edge", "computation_graph"]
