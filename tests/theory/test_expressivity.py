"""What graph metanetworks can express, by construction: equal to the thing itself, to rounding.

Every construction is also perturbed, and must then fail: the comparisons have power.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.graph import trace
from gmn_opt.metanet.baselines import NPLinear, statistics
from gmn_opt.theory.computation import computation_graph
from gmn_opt.theory.general import GeneralLayer, SquareMLP
from tests.theory.constructions import (
    Edges,
    Start,
    moments,
    np_nfn,
    on_computation_graph,
    on_parameter_graph,
    quantiles,
)
from tests.traced import random_tensors, traced


def perturbed(layer: GeneralLayer) -> GeneralLayer:
    """The same object, every weight off by about a thousandth."""
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(1e-3 * torch.randn_like(p))
    return layer


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)),
    "mixed": (
        lambda: nn.Sequential(
            *(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
        ),
        (3,),
    ),
    "siren": (lambda: nn.Sequential(nn.Linear(2, 5), Sine(), nn.Linear(5, 1)), (2,)),
    "cnn": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 2, stride=2), nn.Tanh()),
            *(nn.Flatten(), nn.Linear(8, 2)),
        ),
        (1, 4, 4),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_runs_the_input_network_on_its_computation_graph(name: str) -> None:
    """The forward pass of a feedforward network, convolutions with their sharing included."""
    build, shape = NETWORKS[name]
    model = build().double()
    x = torch.randn(5, *shape, dtype=torch.float64)
    graph = computation_graph(model, x[:1])
    parameters = dict(model.named_parameters())
    start, layer, rounds = on_computation_graph(graph, parameters, x.flatten(1))
    expected = model(x).flatten(1)
    found = start.run(*[layer] * rounds).nodes[:, graph.outputs, 0]
    assert error(found, expected) < 1e-9
    one_less = start.run(*[layer] * (rounds - 1)).nodes[:, graph.outputs, 0]
    assert error(one_less, expected) > 1e-3
    wrong = start.run(*[perturbed(layer)] * rounds).nodes[:, graph.outputs, 0]
    assert error(wrong, expected) > 1e-5


def test_runs_an_mlp_on_its_parameter_graph() -> None:
    """For MLPs the parameter graph is the computation graph, but for bias nodes per layer."""
    model = nn.Sequential(
        *(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    )
    x = torch.randn(7, 4)
    graph, model, x = trace(model, x), model.double(), x.double()
    known = {None: lambda z: z, "relu": torch.relu, "tanh": torch.tanh}
    start, layer, rounds, outputs = on_parameter_graph(
        graph, dict(model.named_parameters()), x, known
    )
    assert rounds == 3
    found = start.run(*[layer] * rounds).nodes[:, outputs, 0]
    assert error(found, model(x)) < 1e-9
    wrong = start.run(*[perturbed(layer)] * rounds).nodes[:, outputs, 0]
    assert error(wrong, model(x)) > 1e-5


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention", "unet"])
def test_means_and_variances_of_statnn_exactly(name: str) -> None:
    graph = traced(name)[1]
    tensors = random_tensors(graph)
    expected = statistics(tensors, graph.shapes)[:, :2].T.flatten()
    start, layer = moments(graph, tensors)
    assert error(start.run(layer).graph, expected) < 1e-12
    assert error(start.run(perturbed(layer)).graph, expected) > 1e-5


@pytest.mark.parametrize("name", ["mlp", "mlp_width_one", "cnn_global_pool"])
def test_quantiles_of_statnn(name: str) -> None:
    """Quantiles are no sum over parameters, yet a loop over the graph state finds them.

    Sums of continuous functions determine the quantiles of n numbers only with n or more channels.
    With steps, a bisection needs one bit of precision per round, whatever n is.
    """
    graph = traced(name)[1]
    tensors = random_tensors(graph)
    expected = statistics(tensors, graph.shapes)[:, 2:].flatten()
    start, layer, read = quantiles(graph, tensors)
    with torch.no_grad():
        found = read(start.run(*[layer] * 56).graph)
        coarse = read(start.run(*[layer] * 12).graph)
        assert error(found, expected) < 1e-9
        assert 1e-6 < float((coarse - expected).abs().max()) < 32.0 / 2**12
        wrong = read(start.run(*[perturbed(layer)] * 56).graph)
        assert not error(wrong, expected) < 1e-5  # it diverges


@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_equals_an_np_nfn_layer(channels: tuple[int, int]) -> None:
    """Any coefficients, two rounds of message passing: all terms of the NP layer."""
    graph = traced("mlp")[1]
    tensors = random_tensors(graph, features=channels[0])
    layer = NPLinear(graph.shapes, *channels).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    expected = Edges.of(graph, layer(tensors)).values
    start, first, second = np_nfn(layer, graph, tensors)
    assert error(start.run(first, second).edges, expected) < 1e-9
    for number in range(2):
        rounds = list(np_nfn(layer, graph, tensors)[1:])
        perturbed(rounds[number])
        assert error(start.run(*rounds).edges, expected) > 1e-5
    with torch.no_grad():  # the construction follows the layer
        for p in layer.parameters():
            p.normal_()
    assert error(start.run(first, second).edges, Edges.of(graph, layer(tensors)).values) > 1e-2


def test_means_in_place_of_sums() -> None:
    index = torch.tensor([[0, 1, 2], [2, 2, 0]])
    nodes = torch.tensor([[1.0], [3.0], [7.0]])
    layer = GeneralLayer(
        message=nn.Identity(), node=nn.Identity(), from_node=nn.Identity(), whole=nn.Identity(),
        aggregation="mean",
    )  # fmt: skip
    out = Start(index, nodes, torch.zeros(3, 0), torch.zeros(0)).run(layer)
    expected = torch.tensor([[1.0, 7.0, 1.0], [3.0, 0.0, 0.0], [7.0, 2.0, 7.0]])
    assert torch.equal(out.nodes, expected)
    assert torch.allclose(out.graph, expected.mean(0))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="3 edges"):
        GeneralLayer()(
            torch.zeros(2, 3).long(), torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(0)
        )
    with pytest.raises(ValueError, match="at most two of 2 inputs"):
        SquareMLP.of(2, [{(0, 1, 1): 1.0}])
    with pytest.raises(ValueError, match="at most two of 2 inputs"):
        SquareMLP.of(2, [{(2,): 1.0}])
