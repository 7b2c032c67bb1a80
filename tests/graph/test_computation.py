"""Computation graphs, and the theory: their automorphisms are the symmetries that we sample.

That symmetries of a parameter graph leave the function unchanged is tested on every case model, in
``test_cases.py``. Here the converse, by brute force: on tiny networks, the automorphisms of the
computation graph that keep inputs and outputs in place induce the same permutations of parameters,
no fewer and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from math import factorial, prod

import pytest
import torch
import torch.nn.functional as F
from networkx.algorithms.isomorphism import DiGraphMatcher  # type: ignore[import-untyped]
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.graph.computation import MAX_NODES, ComputationGraph, Edge, computation_graph
from gmn_opt.graph.symmetry import Symmetry
from tests.graph import models as m


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.down(F.relu(self.up(x))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.weight, self.bias)), self.weight.t())


class Twice(nn.Module):
    """One square layer, applied twice: its rows and columns must move together."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.out = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        for _ in range(2):
            x = torch.tanh(self.again(x))
        return self.out(x)


class SmallConv(nn.Sequential):
    def __init__(self, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(1, 2 * groups, 2), nn.ReLU(),
            nn.Conv2d(2 * groups, 2 * groups, (1, 2), groups=groups),
        )  # fmt: skip
        self.head = nn.Linear(2 * groups, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self)[:3]:
            x = layer(x)
        return self.head(x.mean((2, 3)))


class Flattened(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(2, 3, 2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(9, 2)
        )  # fmt: skip


class Heads(nn.Module):
    """Attention with two heads of two dims; the softmax written out."""

    def __init__(self, width: int = 2, heads: int = 2, dims: int = 2) -> None:
        super().__init__()
        self.heads, self.dims = heads, dims
        self.q, self.k, self.v = (nn.Linear(width, heads * dims) for _ in range(3))
        self.o = nn.Linear(heads * dims, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, self.dims)).transpose(0, 1)
            for f in (self.q, self.k, self.v)
        )
        scores = torch.exp(q @ k.transpose(1, 2) / 2)
        mixed = scores / scores.sum(-1, keepdim=True) @ v
        return self.o(mixed.transpose(0, 1).flatten(1))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale, self.b = nn.Linear(2, 3), nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.sin(self.scale * self.a(x)) + 0.5)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sigmoid(self.a(x)) * self.b(x) - 1.0)


Build = Callable[[], nn.Module]
#: Name, model, shape of one input, order of the group.
NETS: list[tuple[str, Build, tuple[int, ...], int]] = [
    ("mlp 2-3-2", lambda: m.mlp(2, 3, 2), (1, 2), factorial(3)),
    ("mlp 2-2-2-1", lambda: m.mlp(2, 2, 2, 1), (1, 2), 2 * 2),
    ("mlp 1-4-3-1", lambda: m.mlp(1, 4, 3, 1), (1, 1), factorial(4) * factorial(3)),
    ("linear", lambda: nn.Linear(3, 2), (1, 3), 1),
    ("residual mlp", Residual, (1, 2), factorial(3) * 2),
    ("tied autoencoder", Tied, (1, 2), factorial(3)),
    ("one layer twice", Twice, (1, 2), factorial(3)),
    ("conv net", SmallConv, (1, 1, 3, 3), 2 * 2),
    ("grouped conv net", lambda: SmallConv(2), (1, 1, 3, 3), 2 * 2**2 * 2**2),
    ("conv, flatten, linear", Flattened, (1, 2, 2), factorial(3)),
    ("attention heads", Heads, (2, 2), 2 * 2**2 * 2**2),
    ("scale", Scaled, (1, 2), factorial(3)),
    ("gated", Gated, (1, 2), factorial(3)),
]
MODELS = pytest.mark.parametrize(("build", "shape", "order"), [n[1:] for n in NETS],
                                 ids=[n[0] for n in NETS])  # fmt: skip

Moved = frozenset[tuple[str, tuple[int, ...]]]


def as_set_element(tensors: dict[str, Tensor]) -> Moved:
    return frozenset((n, tuple(t.reshape(-1).tolist())) for n, t in tensors.items())


def whole_group(graph: ParameterGraph) -> set[Moved]:
    """The permutations of parameters of every symmetry that could be drawn."""
    places = {n: torch.arange(torch.Size(s).numel()).reshape(s) for n, s in graph.shapes.items()}
    choices = []
    for space in graph.spaces:
        lead = [graph.factors[p].size for p in space.parents]
        rows = product(permutations(range(space.size)), repeat=prod(lead))
        choices.append([torch.tensor(r).reshape(*lead, space.size) for r in rows])
    return {
        as_set_element(
            Symmetry(graph, dict(zip((s.id for s in graph.spaces), chosen, strict=True)))
            .apply(places)
        )
        for chosen in product(*choices)
    }  # fmt: skip


@MODELS
def test_it_computes_the_same_function(build: Build, shape: tuple[int, ...], order: int) -> None:
    model, x = build().double(), torch.randn(shape, dtype=torch.float64)
    graph = computation_graph(model, x)
    found = graph.evaluate(dict(model.named_parameters()), x.reshape(-1).tolist())
    assert found == pytest.approx(model(x).reshape(-1).tolist(), rel=1e-12, abs=1e-12)


@MODELS
def test_automorphisms_are_the_symmetries_that_are_sampled(
    build: Build, shape: tuple[int, ...], order: int
) -> None:
    model, x = build(), torch.randn(shape)
    traced = trace(model, x)
    assert prod(
        factorial(s.size) ** prod(traced.factors[p].size for p in s.parents)
        for s in traced.spaces
    ) == order  # fmt: skip
    found = list(computation_graph(model, x).automorphisms())
    induced = {as_set_element(a.tensors(traced.shapes)) for a in found}
    assert len(found) == len(induced) == order
    assert induced == whole_group(traced)


@MODELS
def test_random_symmetries_are_automorphisms(
    build: Build, shape: tuple[int, ...], order: int
) -> None:
    model, x = build(), torch.randn(shape)
    traced = trace(model, x)
    induced = {
        as_set_element(a.tensors(traced.shapes))
        for a in computation_graph(model, x).automorphisms()
    }
    places = {n: torch.arange(torch.Size(s).numel()).reshape(s) for n, s in traced.shapes.items()}
    generator = torch.Generator().manual_seed(0)
    drawn = {
        as_set_element(traced.random_symmetry(generator).apply(places)) for _ in range(12 * order)
    }
    assert drawn <= induced
    if order <= 24:
        assert drawn == induced


@pytest.mark.parametrize("name", ["mlp 2-3-2", "mlp 2-2-2-1", "tied autoencoder", "conv net"])
def test_networkx_finds_as_many(name: str) -> None:
    """The same count by another algorithm."""
    import networkx as nx  # type: ignore[import-untyped]

    _, build, shape, order = next(n for n in NETS if n[0] == name)
    graph = computation_graph(build(), torch.randn(shape))
    pinned = {*graph.inputs, *graph.outputs, *graph.constants}
    plain = nx.DiGraph()
    for i, op in enumerate(graph.ops):
        plain.add_node(i, color=(op, i if i in pinned else None))
    for number, edge in enumerate(graph.edges):
        plain.add_node(("edge", number), color=("edge", edge.weight))
        plain.add_edge(edge.src, ("edge", number))
        plain.add_edge(("edge", number), edge.dst)
        if edge.label is not None:
            plain.add_node(edge.label, color=("parameter", edge.label[0]))
            plain.add_edge(edge.label, ("edge", number))
    matcher = DiGraphMatcher(plain, plain, node_match=lambda a, b: a["color"] == b["color"])
    assert sum(1 for _ in matcher.isomorphisms_iter()) == order


def test_every_use_is_an_edge() -> None:
    """A 2x2 kernel on a 3x3 image is used at four positions."""
    model = nn.Conv2d(1, 3, 2)
    graph = computation_graph(model, torch.randn(1, 1, 3, 3))
    uses = [e for e in graph.edges if e.label is not None and e.label[0] == "weight"]
    assert len(uses) == 3 * 4 * 4
    assert len({e.label for e in uses}) == 12
    assert len([e for e in graph.edges if e.label is not None and e.label[0] == "bias"]) == 12
    assert len(graph.inputs) == 9
    assert len(graph.outputs) == 12
    assert graph.ops.count("constant") == 1


def test_sharing_matters() -> None:
    """Without the tie between its two uses, a layer would have a larger group."""
    graph = computation_graph(Twice(), torch.randn(1, 2))
    seen: dict[tuple[str, int], int] = {}
    untied = []
    for edge in graph.edges:
        label = edge.label
        if label is not None and label[0].startswith("again"):
            seen[label] = seen.get(label, -1) + 1
            label = (f"{label[0]} {seen[label]}", label[1])
        untied.append(edge._replace(label=label))
    loose = ComputationGraph(graph.ops, untied, graph.inputs, graph.outputs, graph.constants)
    assert len(list(graph.automorphisms())) == factorial(3)
    assert len(list(loose.automorphisms())) == factorial(3) ** 3


def test_what_cannot_be_expanded_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="'cumsum'"):
        computation_graph(Cumulative(), torch.randn(1, 2))
    with pytest.raises(NotImplementedError, match="transposed"):
        computation_graph(nn.ConvTranspose1d(1, 1, 2), torch.randn(1, 1, 3))
    with pytest.raises(ValueError, match=f"more than {MAX_NODES:,} nodes"):
        computation_graph(nn.Conv2d(1, 9, 1), torch.randn(1, 1, 64, 64))


class Cumulative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).cumsum(1)


def test_edges_are_plain_values() -> None:
    graph = computation_graph(nn.Linear(1, 1, bias=False), torch.randn(1, 1))
    assert graph.edges == [Edge(0, 1, ("weight", 0))]
    assert (graph.ops, graph.inputs, graph.outputs) == (["input", "sum"], [0], [1])
