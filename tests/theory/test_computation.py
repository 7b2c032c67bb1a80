"""Computation graphs, and the theory: their automorphisms are the symmetries that we sample.

That symmetries of a parameter graph leave the function unchanged is tested on every case model, in
``test_cases.py``. Here the converse, by brute force: on tiny networks, the automorphisms of the
computation graph that keep inputs and outputs in place induce the same permutations of parameters,
no fewer and no more. The two ways in which they can differ have tests of their own.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from math import factorial, prod

import pytest
import torch
from networkx.algorithms.isomorphism import DiGraphMatcher  # type: ignore[import-untyped]
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.graph.symmetry import Symmetry
from gmn_opt.theory.computation import (
    MAX_NODES,
    Automorphism,
    ComputationGraph,
    Edge,
    computation_graph,
)
from tests.theory.nets import NETS, Build, PackedHeads, Twice, normed

MODELS = pytest.mark.parametrize(("build", "shape", "order"), [n[1:] for n in NETS],
                                 ids=[n[0] for n in NETS])  # fmt: skip


def example(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """An input of a shape: numbers, or the rows of an embedding."""
    if any(isinstance(module, nn.Embedding) for module in model.modules()):
        return torch.arange(1, 1 + prod(shape)).reshape(shape)
    return torch.randn(shape)


@cache
def automorphisms(build: Build, shape: tuple[int, ...]) -> list[Automorphism]:
    """All of them; they depend on the architecture alone."""
    model = build().eval()
    return list(computation_graph(model, example(model, shape)).automorphisms())


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
    model = build().double().eval()
    x = example(model, shape)
    x = x.double() if x.is_floating_point() else x
    graph = computation_graph(model, x)
    found = graph.evaluate(model.state_dict(), x.reshape(-1).tolist())
    assert found == pytest.approx(model(x).reshape(-1).tolist(), rel=1e-12, abs=1e-12)


@MODELS
def test_automorphisms_are_the_symmetries_that_are_sampled(
    build: Build, shape: tuple[int, ...], order: int
) -> None:
    model = build().eval()
    traced = trace(model, example(model, shape))
    assert prod(
        factorial(s.size) ** prod(traced.factors[p].size for p in s.parents)
        for s in traced.spaces
    ) == order  # fmt: skip
    found = automorphisms(build, shape)
    induced = {as_set_element(a.tensors(traced.shapes)) for a in found}
    assert len(found) == len(induced) == order
    assert induced == whole_group(traced)


@MODELS
def test_random_symmetries_are_automorphisms(
    build: Build, shape: tuple[int, ...], order: int
) -> None:
    model = build().eval()
    traced = trace(model, example(model, shape))
    induced = {as_set_element(a.tensors(traced.shapes)) for a in automorphisms(build, shape)}
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


def moved(model: nn.Module, by: Automorphism) -> dict[str, Tensor]:
    """The parameters with every element where an automorphism takes it."""
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    out = {}
    for name, places in by.tensors(shapes).items():
        value = model.get_parameter(name).detach()
        out[name] = (
            torch.empty_like(value)
            .flatten()
            .scatter(0, places.flatten(), value.flatten())
            .reshape(value.shape)
        )
    return out


class Bilinear(nn.Module):
    """A product of two halves of one layer, with no activation on either."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(2, 4), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, -1)
        return self.out(a * b)


@pytest.mark.parametrize(
    ("build", "shape", "sampled", "found"),
    [
        (Bilinear, (1, 2), 2, 2 * 2**2),
        (lambda: PackedHeads(2, 1), (1, 1, 2), 2 * 2, (2 * 2**2) * 2),
        (lambda: PackedHeads(2, 1), (1, 2, 2), 2 * 2, 2 * 2),
    ],
    ids=["halves of a product", "attention to one token", "attention to two tokens"],
)
def test_products_of_halves_have_more_automorphisms(
    build: Build, shape: tuple[int, ...], sampled: int, found: int
) -> None:
    """Neurons ``a_i`` and ``b_i`` of one tensor may change places where only ``a_i b_i`` is used.

    So may a query dim and a key dim of attention with one token; with two, the softmax tells the
    keys that it sums over from the queries that it does not. These are true symmetries that a
    parameter graph lacks: its index sets are the halves, and no half is the other.
    """
    model = build().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    traced = trace(model, x)
    every = automorphisms(build, shape)
    induced = {as_set_element(a.tensors(traced.shapes)) for a in every}
    group = whole_group(traced)
    assert len(group) == sampled
    assert len(induced) == len(every) == found
    assert group <= induced
    for automorphism in every:
        after = torch.func.functional_call(model, moved(model, automorphism), (x,))
        torch.testing.assert_close(after, model(x), rtol=1e-10, atol=1e-12)


def test_what_is_never_used_is_on_no_edge() -> None:
    """On one pixel, a kernel's border sees padding alone: only its middle column is permuted."""
    model = nn.Sequential(nn.Conv1d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 1, 3, padding=1))
    x = torch.randn(1, 1, 1)
    traced = trace(model, x)
    group = whole_group(traced)
    found = list(computation_graph(model, x).automorphisms())
    induced = {as_set_element(a.tensors(traced.shapes)) for a in found}
    assert len(induced) == len(group) == factorial(3)
    assert induced & group == {as_set_element(
        {n: torch.arange(torch.Size(s).numel()).reshape(s) for n, s in traced.shapes.items()}
    )}  # fmt: skip

    def used(moves: Moved) -> Moved:
        return frozenset((n, at[1::3] if n.endswith("weight") else at) for n, at in moves)

    assert {used(g) for g in induced} == {used(g) for g in group}


def test_constants_are_pinned_unless_they_are_all_alike() -> None:
    """Adding 1 to every neuron keeps their order free. A buffer's numbers are constants of their
    own to the computation graph; to the parameter graph they are free where they are all alike.
    """

    class Plus(nn.Module):
        shift: Tensor | None

        def __init__(self, shift: Tensor | None) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 1)
            self.register_buffer("shift", shift)

        def forward(self, x: Tensor) -> Tensor:
            shift = torch.ones(3) if self.shift is None else self.shift
            return self.b(torch.tanh(self.a(x) + shift))

    x = torch.randn(1, 2)
    shifts = (None, torch.ones(3), torch.arange(3.0))
    for shift, computed, traced in zip(shifts, (6, 1, 1), (6, 6, 1), strict=True):
        assert len(list(computation_graph(Plus(shift), x).automorphisms())) == computed
        assert len(whole_group(trace(Plus(shift), x))) == traced


def test_the_model_is_left_as_it_is() -> None:
    model = normed(nn.BatchNorm1d(3))()
    with pytest.raises(NotImplementedError, match=r"Call model\.eval"):
        computation_graph(model.train(), torch.randn(2, 2))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    computation_graph(model.eval(), torch.randn(2, 2))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


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
