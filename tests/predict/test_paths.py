"""Through maps and coherence: what they are, and that no permutation changes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.graph.structure import Link
from gmn_opt.metanet import blocked
from gmn_opt.predict.networks import Stack
from gmn_opt.predict.paths import coherence, ends_of, through_map
from gmn_opt.predict.through import path_features
from tests.predict.population import mlp
from tests.predict.test_invariance import cnn, vit


class Residual(nn.Module):
    """Two ways from the inputs to the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        out: Tensor = self.last(h + self.second(h).tanh())
        return out


class Recurrent(nn.Module):
    """Weights that are used twice, of which the graph knows the first use."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.again, self.last = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x).tanh()
        for _ in range(2):
            h = self.again(h).tanh()
        out: Tensor = self.last(h)
        return out


def given(model: nn.Module, *shape: int) -> tuple[ParameterGraph, dict[str, Tensor]]:
    """Its graph and random weights in float64."""
    model = model.double().eval()
    graph = trace(model, torch.randn(shape, dtype=torch.float64), progress=False)
    return graph, {n: torch.randn(1, *s).double() for n, s in graph.shapes.items()}


def through(graph: ParameterGraph, tensors: dict[str, Tensor]) -> Tensor:
    """Of one network, ``[elements]``."""
    return through_map(graph, blocked(graph).split(tensors))[0]


def unit(x: Tensor) -> Tensor:
    """Of length 1."""
    return x / x.norm()


def test_through_map_of_an_mlp_is_the_product_of_its_weights() -> None:
    graph, tensors = given(mlp(6, 2), 2, 3)
    w = [tensors[f"{i}.weight"][0] for i in (0, 2, 4)]
    assert ends_of(graph) == (3, 2)
    torch.testing.assert_close(through(graph, tensors), unit(w[2] @ w[1] @ w[0]).flatten())


def test_through_map_adds_up_all_ways() -> None:
    graph, tensors = given(Residual(), 2, 3)
    first, second, last = (tensors[f"{n}.weight"][0] for n in ("first", "second", "last"))
    wanted = unit(last @ (torch.eye(5).double() + second) @ first).flatten()
    torch.testing.assert_close(through(graph, tensors), wanted)


def test_through_map_adds_up_kernel_positions_and_pixels() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(36, 3))
    graph, tensors = given(model, 1, 2, 5, 5)
    first, last = tensors["0.weight"][0].sum((2, 3)), tensors["2.weight"][0].view(3, 4, 9).sum(2)
    torch.testing.assert_close(through(graph, tensors), unit(last @ first).flatten())


def test_a_cycle_is_followed_once() -> None:
    graph, tensors = given(Residual(), 2, 3)
    (link,) = graph.links
    looped = replace(graph, links=(link, Link(link.dst, link.src)))
    torch.testing.assert_close(through(looped, tensors), through(graph, tensors))


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 65)), Recurrent()], ids=["large", "cut"]
)
def test_there_may_be_no_map(model: nn.Module) -> None:
    graph, tensors = given(model, 2, 3)
    assert ends_of(graph) is None
    assert through(graph, tensors).shape == (0,)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: mlp(6, 2), (2, 3)),
        (Residual, (2, 3)),
        (cnn, (2, 1, 14, 14)),
        (vit, (2, 1, 14, 14)),
    ],
)
def test_permutations(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    graph, tensors = given(make(), *shape)
    flat = {n: t[0] for n, t in tensors.items()}
    other = graph.permute(flat, graph.random_symmetry(torch.Generator().manual_seed(0)))
    assert any(not torch.equal(flat[n], other[n]) for n in flat)
    moved = {n: t.unsqueeze(0) for n, t in other.items()}
    for read in (through_map, coherence):
        a, b = (read(graph, blocked(graph).split(t)) for t in (tensors, moved))
        assert float(a.abs().max()) > 0.1
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_coherence_tells_partners_from_strangers() -> None:
    graph, tensors = given(mlp(32), 2, 3)
    alone = coherence(graph, blocked(graph).split(tensors))[0]
    # what goes out of a neuron follows from what comes in
    tensors["2.weight"] = tensors["0.weight"].mT[:, :2]
    together = coherence(graph, blocked(graph).split(tensors))[0]
    assert float(together[0] - alone[0]) > 1


@pytest.mark.parametrize("scale", [1e9, 1e-9])
def test_huge_and_tiny_weights(scale: float) -> None:
    graph, tensors = given(mlp(6, 3), 2, 3)
    (plain, scaled) = (
        path_features(
            Stack(graph, {n: t * s for n, t in tensors.items()}, torch.zeros(1), torch.zeros(1, 0))
        )
        for s in (1.0, scale)
    )
    torch.testing.assert_close(plain.through, scaled.through)
    assert bool(scaled.coherence.isfinite().all())
    assert plain.through.dtype == torch.float32
