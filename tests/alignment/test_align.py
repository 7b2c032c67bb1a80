"""Aligning: permuted copies are found, the optimum is the optimum, and bad input is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gmn_opt
from gmn_opt.alignment import align_many, distance
from gmn_opt.alignment.matching import Problem, anchored, ascend, begin
from gmn_opt.alignment.pieces import weight_pieces
from gmn_opt.graph import ParameterGraph, Symmetry, trace
from tests.cases import BY_NAME
from tests.graph import models as m
from tests.traced import PLAIN, traced

NAMES = [c.name for c in PLAIN if c.spaces != 0]
State = dict[str, Tensor]


def drawn(model: nn.Module, seed: int = 1) -> State:
    """A state with every floating-point number drawn anew."""
    g = torch.Generator().manual_seed(seed)
    return {
        n: torch.rand(x.shape, generator=g, dtype=torch.float64) + (0.5 if "var" in n else -0.5)
        if x.is_floating_point()
        else x.clone()
        for n, x in model.state_dict().items()
    }


def random_symmetry(graph: ParameterGraph, seed: int = 3) -> Symmetry:
    return graph.random_symmetry(torch.Generator().manual_seed(seed))


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("name", NAMES)
def test_a_permuted_copy_is_found_exactly(name: str) -> None:
    model, graph = traced(name)
    state = drawn(model)
    copy = graph.permute(state, random_symmetry(graph))
    assert same(graph.permute(copy, gmn_opt.align(graph, state, copy)), state)


@pytest.mark.parametrize("name", ["resnet", "vit", "gpt", "attention_gqa", "llama", "lstm"])
def test_so_is_one_of_a_fresh_network(name: str) -> None:
    """Norm scales of one and zero biases tell nothing apart."""
    model, graph = traced(name)
    state = dict(model.state_dict())
    copy = graph.permute(state, random_symmetry(graph))
    found = graph.permute(copy, gmn_opt.align(graph, state, copy))
    assert all(torch.equal(found[n], state[n]) for n in graph.shapes)


def every_symmetry(graph: ParameterGraph) -> Any:
    """All symmetries of a tiny graph."""
    choices = []
    for s in graph.spaces:
        lead = [graph.factors[p].size for p in s.parents]
        rows = int(torch.tensor(lead).prod()) if lead else 1
        single = [torch.tensor(p) for p in itertools.permutations(range(s.size))]
        choices.append(
            [torch.stack(c).reshape(*lead, s.size) for c in itertools.product(single, repeat=rows)]
        )
    ids = [s.id for s in graph.spaces]
    for chosen in itertools.product(*choices):
        yield Symmetry(graph, dict(zip(ids, chosen, strict=True)))


class TinyAttention(m.Attention):
    """Two heads of two dims behind a stream of three."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.enter, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
        self.q, self.k, self.v = (nn.Linear(3, 4) for _ in range(3))
        self.o = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = (f(x).view(1, -1, 2, 2).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head(x + self.o(y.transpose(1, 2).reshape(1, -1, 4)))


@pytest.mark.parametrize("kind", ["mlp", "attention", "shared"])
def test_nothing_is_nearer_than_what_is_found(kind: str) -> None:
    model: nn.Module
    if kind == "attention":
        model, x = TinyAttention(), torch.randn(1, 4, 3)
    elif kind == "mlp":
        model, x = m.mlp(2, 4, 3, 1), torch.randn(5, 2)
    else:
        model, x = m.SharedLayer(), torch.randn(3, 5)
        model.enter, model.again, model.out = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)
    graph = trace(model, x)
    for seed in range(3):
        a, b = drawn(model, 2 * seed), drawn(model, 2 * seed + 1)
        found = gmn_opt.align(graph, a, b, restarts=12)
        best = min(distance(graph, a, graph.permute(b, s)) for s in every_symmetry(graph))
        assert distance(graph, a, graph.permute(b, found)) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("name", ["mlp", "resnet", "attention_gqa", "gpt", "grouped_conv"])
def test_the_result_does_not_depend_on_the_order_that_the_other_comes_in(name: str) -> None:
    model, graph = traced(name)
    a, b = drawn(model, 1), drawn(model, 2)
    shuffled = graph.permute(b, random_symmetry(graph))
    one, two = (graph.permute(x, gmn_opt.align(graph, a, x, restarts=1)) for x in (b, shuffled))
    assert same(one, two)


@pytest.mark.parametrize("name", ["residual_mlp", "attention_gqa", "lstm", "shared_layer", "llama"])
def test_every_step_comes_nearer(name: str) -> None:
    model, graph = traced(name)
    a, b = drawn(model, 1), drawn(model, 2)
    parents = {s.id: s.parents for s in graph.spaces}
    sizes = {f.id: f.size for f in graph.factors}
    for start in (False, True):
        problem = Problem(list(weight_pieces(graph, a, b)), parents, sizes)
        if start:
            begin(problem, anchored(problem))
        ascend(problem)
        assert all(x < y for x, y in itertools.pairwise(problem.trail))
        found = graph.permute(b, Symmetry(graph, problem.found))
        product = sum(float((a[n] * found[n]).sum()) for n in graph.shapes)
        off = sum(
            float((a[x.tensor] * b[x.tensor]).sum())
            for x in graph.blocks
            if not any(graph.factors[f].is_free for dim in x.dims for f in dim)
        )
        assert problem.trail[-1] == pytest.approx(product - off, rel=1e-9)
        assert distance(graph, a, found) <= distance(graph, a, b)


def test_the_function_stays() -> None:
    case = BY_NAME["resnet"]
    model, inputs = case.make()
    graph = trace(model, *inputs)
    a, b = ({n: x.float() for n, x in drawn(model, k).items()} for k in (1, 2))
    found = graph.permute(b, gmn_opt.align(graph, a, b))
    before, after = (torch.func.functional_call(model, s, inputs) for s in (b, found))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found["norm.running_mean"], b["norm.running_mean"])


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "gpt", "attention_gqa", "attention_mha"])
def test_activations_find_a_copy_too(name: str) -> None:
    case = BY_NAME[name]
    model, inputs = case.make()
    graph = trace(model, *inputs)
    state = {n: x.detach().clone() for n, x in model.state_dict().items()}
    copy = graph.permute(state, random_symmetry(graph))
    data = [case.make(k)[1] for k in range(8)]
    found = gmn_opt.align(graph, state, copy, "activations", data, model=model)
    assert same(graph.permute(copy, found), state)
    assert same(dict(model.state_dict()), state)


def test_many_networks_come_to_one_place() -> None:
    model, graph = traced("vit")
    state = drawn(model)
    copies = [state, *(graph.permute(state, random_symmetry(graph, k)) for k in (1, 2))]
    noisy = [
        {n: x + 0.01 * torch.randn_like(x) if x.is_floating_point() else x for n, x in c.items()}
        for c in copies
    ]
    symmetries = align_many(graph, noisy)
    placed = [graph.permute(x, s) for x, s in zip(noisy, symmetries, strict=True)]
    assert same(placed[0], noisy[0])
    assert max(distance(graph, state, x) for x in placed) < 1.5 * distance(graph, state, noisy[0])


# ---------------------------------------------------------------------- refusals


def wrong(state: State, name: str, value: Tensor | None) -> State:
    out = {n: x for n, x in state.items() if n != name}
    return out if value is None else {**out, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: wrong(s, "0.weight", torch.zeros(7, 4)), r"'0.weight' has shape \[7, 4\]"),
        (lambda s: wrong(s, "2.bias", None), r"other has no '2.bias' \(1 of 6"),
        (lambda s: wrong(s, "2.bias", torch.full((5,), torch.nan)), "'2.bias' holds NaN"),
        (lambda s: m.MLPBatchNorm().state_dict(), "other has no '2.weight'.*instead"),
        (lambda s: wrong(s, "2.bias", torch.zeros(5, dtype=torch.complex64)), "is complex"),
    ],
)
def test_states_that_do_not_fit(change: Any, message: str) -> None:
    model, graph = traced("mlp")
    state = drawn(model)
    with pytest.raises(ValueError, match=message):
        gmn_opt.align(graph, state, change(state))


def test_settings_that_cannot_be() -> None:
    model, graph = traced("mlp")
    state = drawn(model)
    with pytest.raises(ValueError, match="No method 'weight'"):
        gmn_opt.align(graph, state, state, "weight")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the model and inputs"):
        gmn_opt.align(graph, state, state, "activations")
    with pytest.raises(ValueError, match="data holds no batch"):
        gmn_opt.align(graph, state, state, "activations", [], model=model)
    with pytest.raises(TypeError, match=r"pass a list of batches"):
        gmn_opt.align(graph, state, state, "activations", torch.zeros(2, 4), model=model)
    with pytest.raises(ValueError, match="restarts must be at least 1"):
        gmn_opt.align(graph, state, state, restarts=0)
    with pytest.raises(ValueError, match="at least two networks"):
        align_many(graph, [state])


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph = traced("mlp")
    state = drawn(model)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'gmn-opt\[align\]'"):
        gmn_opt.align(graph, state, state)


def test_scipy_is_imported_when_it_is_used() -> None:
    code = "import sys, gmn_opt.alignment, gmn_opt.cli; print('scipy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]
