"""Invariance, equivariance, slow references and refusals of the baseline metanetworks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gmn_opt import ParameterGraph, trace
from gmn_opt.metanet.baselines import (
    DMC,
    NPNFN,
    FlatMLP,
    NPLinear,
    ParameterDeepSets,
    StatNN,
    statistics,
)
from gmn_opt.metanet.baselines.np_nfn import NPStack
from tests.graph.models import mlp

ALL = [FlatMLP, DMC, StatNN, ParameterDeepSets, NPNFN]
INVARIANT = [StatNN, ParameterDeepSets, NPNFN]
Make = Callable[..., nn.Module]


@pytest.fixture
def graph() -> ParameterGraph:
    return trace(mlp(2, 5, 4, 3), torch.randn(6, 2))


def draw(graph: ParameterGraph, *lead: int, channels: int = 0) -> dict[str, Tensor]:
    tail = (channels,) if channels else ()
    return {n: torch.randn(*lead, *s, *tail, dtype=torch.float64) for n, s in graph.shapes.items()}


@pytest.mark.parametrize("make", ALL)
def test_leading_dimensions_batch_networks(make: Make, graph: ParameterGraph) -> None:
    net = make(graph.shapes, 3).double().eval()
    tensors = draw(graph, 2, 4)
    out = net(tensors)
    assert out.shape == (2, 4, 3)
    for at in ((0, 1), (1, 3)):
        alone = net({n: t[at] for n, t in tensors.items()})
        assert torch.allclose(alone, out[at], atol=1e-12)


@pytest.mark.parametrize("make", ALL)
def test_invariance(make: Make, graph: ParameterGraph) -> None:
    net = make(graph.shapes, 3).double().eval()
    tensors = draw(graph, 2)
    before = net(tensors)
    for seed in range(5):
        sym = graph.random_symmetry(torch.Generator().manual_seed(seed))
        after = net(graph.permute(tensors, sym))
        if make in INVARIANT:
            assert torch.allclose(after, before, atol=1e-10, rtol=1e-10)
        else:
            assert not torch.allclose(after, before, atol=1e-4)


def test_np_nfn_knows_its_inputs_apart(graph: ParameterGraph) -> None:
    """Swapping the two inputs is no symmetry, and must be seen."""
    net = NPNFN(graph.shapes, 3).double().eval()
    tensors = draw(graph)
    first = next(iter(tensors))
    swapped = {**tensors, first: tensors[first].flip(-1)}
    assert not torch.allclose(net(swapped), net(tensors), atol=1e-4)


def test_equivariance_of_np_layers(graph: ParameterGraph) -> None:
    tensors = draw(graph, 2, channels=2)
    for net in (NPLinear(graph.shapes, 2, 3), NPStack(graph.shapes, 2, 3, 4, 3)):
        net.double().eval()
        sym = graph.random_symmetry(torch.Generator().manual_seed(1))

        def move(features: dict[str, Tensor], sym=sym) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
            first = {n: t.movedim(-1, 0) for n, t in features.items()}
            return {n: t.movedim(0, -1) for n, t in graph.permute(first, sym).items()}

        want, got = move(net(tensors)), net(move(tensors))
        for name in graph.shapes:
            assert torch.allclose(got[name], want[name], atol=1e-10, rtol=1e-10)


def test_np_layer_equals_its_formula_index_by_index(graph: ParameterGraph) -> None:
    """Every term of the formula, one number at a time."""
    layer = NPLinear(graph.shapes, 2, 3).double().eval()
    x = draw(graph, channels=2)
    got = layer(x)
    names = list(graph.shapes)
    w = [x[n] for n in names[::2]]
    v = [x[n] for n in names[1::2]]
    c_in = 2

    def coefficient(linear: nn.Module, term: int) -> Tensor:
        assert isinstance(linear, nn.Linear)
        return linear.weight[:, term * c_in : (term + 1) * c_in]

    for i in range(len(w)):
        for which, out in ((2 * i, got[names[2 * i]]), (2 * i + 1, got[names[2 * i + 1]])):
            overall = layer.overall[which]
            assert isinstance(overall, nn.Linear)
            shared = overall.bias.clone()
            for s in range(len(w)):
                shared = shared + coefficient(overall, s) @ w[s].flatten(0, 1).mean(0)
                shared = shared + coefficient(overall, len(w) + s) @ v[s].mean(0)
            per_neuron = layer.to_weight_rows[i] if which % 2 == 0 else layer.to_bias[i]
            for j in range(w[i].shape[0]):
                at_j = coefficient(per_neuron, 0) @ w[i][j].mean(0)
                at_j = at_j + coefficient(per_neuron, 1) @ v[i][j]
                if i + 1 < len(w):
                    at_j = at_j + coefficient(per_neuron, 2) @ w[i + 1][:, j].mean(0)
                if which % 2:
                    assert torch.allclose(out[j], shared + at_j, atol=1e-12)
                    continue
                for k in range(w[i].shape[1]):
                    columns = layer.to_weight_columns[i]
                    at_k = coefficient(columns, 0) @ w[i][:, k].mean(0)
                    if i > 0:
                        at_k = at_k + coefficient(columns, 1) @ w[i - 1][k].mean(0)
                        at_k = at_k + coefficient(columns, 2) @ v[i - 1][k]
                    itself = coefficient(layer.to_weight[i], 0) @ w[i][j, k]
                    assert torch.allclose(out[j, k], shared + at_j + at_k + itself, atol=1e-12)


def test_np_layer_has_every_free_coefficient() -> None:
    """One per term of the formula, counted by hand for two layers."""
    shapes = {"0.w": (3, 2), "0.b": (3,), "1.w": (4, 3), "1.b": (4,)}
    layer = NPLinear(shapes, 1, 1)
    terms = sum(p.numel() for n, p in layer.named_parameters())
    # overall: 4 tensors x (4 means + constant); rows 3 + 2; columns 1 + 3; itself 2; bias 3 + 2
    assert terms == 4 * 5 + 5 + 4 + 2 + 5


def test_statistics_are_numpys(graph: ParameterGraph) -> None:
    tensors = draw(graph, 2)
    got = statistics(tensors, graph.shapes)
    for t, x in enumerate(tensors.values()):
        for n in range(2):
            a = x[n].numpy().ravel()
            want = [a.mean(), a.var(), *np.quantile(a, [0, 0.25, 0.5, 0.75, 1])]
            assert np.allclose(got[n, t].numpy(), want, atol=1e-12)


@pytest.mark.parametrize("make", [StatNN, ParameterDeepSets])
def test_other_architectures(make: Make, graph: ParameterGraph) -> None:
    net = make(graph.shapes, 3, slots=8).double().eval()
    small, large = (trace(mlp(*s), torch.randn(3, 2)) for s in ((2, 4, 1), (2, 3, 3, 3, 3, 1)))
    assert net(draw(small, 5), small.shapes).shape == (5, 3)
    assert net(draw(graph)).shape == (3,)
    with pytest.raises(ValueError, match="room for 8 tensors, received 10"):
        net(draw(large), large.shapes)


def test_convolutions_take_any_length(graph: ParameterGraph) -> None:
    small = trace(mlp(2, 4, 1), torch.randn(3, 2))
    assert DMC(graph.shapes, 3).double().eval()(draw(small, 5), small.shapes).shape == (5, 3)


@pytest.mark.parametrize("make", ALL)
def test_refusals(make: Make, graph: ParameterGraph) -> None:
    net = make(graph.shapes, 3).double().eval()
    tensors = draw(graph, 2)
    first = next(iter(tensors))
    with pytest.raises(ValueError, match=f"missing \\['{first}'\\]"):
        net({n: t for n, t in tensors.items() if n != first})
    with pytest.raises(ValueError, match=r"unexpected \['more'\]"):
        net({**tensors, "more": torch.ones(2)})
    with pytest.raises(ValueError, match=r"expected shape \[..., 5, 2\]"):
        net({**tensors, first: tensors[first].mT})
    with pytest.raises(ValueError, match="same leading dimensions"):
        net({**tensors, first: tensors[first][0]})
    with pytest.raises(ValueError, match="at least one non-empty parameter"):
        make({}, 3)


@pytest.mark.parametrize(
    "shapes",
    [
        {"a": (3, 2)},
        {"a": (3, 2), "b": (2,)},
        {"a": (3, 2, 3, 3), "b": (3,)},
        {"a": (3, 2), "b": (3,), "c": (4, 2), "d": (4,)},
    ],
)
def test_np_nfn_serves_mlps_alone(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="serves MLPs alone"):
        NPLinear(shapes, 1, 1)


def test_one_layer_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least one hidden layer"):
        NPNFN({"a": (3, 2), "b": (3,)}, 2)
    with pytest.raises(ValueError, match="at least 2 layers"):
        NPStack({"a": (3, 2), "b": (3,)}, 1, 1, layers=1)
