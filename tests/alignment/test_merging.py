"""Averages of networks, their statistics, and the loss on the way from one to the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gmn_opt
from gmn_opt.alignment import (
    align_many,
    average,
    barrier,
    losses_along_path,
    plot_paths,
    renormalize,
    repair,
)
from gmn_opt.graph import ParameterGraph, trace
from tests.cases import BY_NAME
from tests.graph.models import mlp


def two_seeds(name: str) -> tuple[nn.Module, ParameterGraph, list[dict[str, Tensor]]]:
    """A case's graph, and two independent networks."""
    model, inputs = BY_NAME[name].make()
    states = [dict(BY_NAME[name].make(k)[0].state_dict()) for k in (0, 1)]
    return model, trace(model, *inputs), states


def test_an_average_is_the_mean_of_what_can_have_one() -> None:
    _, _, (a, b) = two_seeds("cnn_batch_norm")
    mean = average([a, b], [0.25, 0.75])
    torch.testing.assert_close(mean["0.weight"], 0.25 * a["0.weight"] + 0.75 * b["0.weight"])
    assert torch.equal(mean["1.num_batches_tracked"], a["1.num_batches_tracked"])
    torch.testing.assert_close(average([a, a])["0.weight"], a["0.weight"])


def test_merging_a_network_with_its_permuted_copy_gives_the_network() -> None:
    _, graph, (a, _) = two_seeds("vit")
    copy = graph.permute(a, graph.random_symmetry(torch.Generator().manual_seed(1)))
    for merged in (
        gmn_opt.merge(graph, [a, copy]),
        gmn_opt.merge(graph, [a, copy], t=0.3),
        gmn_opt.merge(graph, [a, copy, a], [0.2, 0.5, 0.3]),
        gmn_opt.merge(graph, [a, copy], symmetries=align_many(graph, [a, copy])),
    ):
        for name, value in a.items():
            torch.testing.assert_close(merged[name], value)


def test_ends_of_a_merge_are_the_networks() -> None:
    _, graph, (a, b) = two_seeds("mlp")
    for t, end in ((0.0, a), (1.0, graph.permute(b, gmn_opt.align(graph, a, b)))):
        merged = gmn_opt.merge(graph, [a, b], t=t)
        assert all(torch.equal(merged[n], end[n]) for n in end)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [0.5, 0.6]}, "sum to 1.1"),
        ({"weights": [1.0]}, "1 weights for 2 networks"),
        ({"t": 0.5, "weights": [0.5, 0.5]}, "t is for two networks without weights"),
        ({"symmetries": []}, "0 symmetries for 2 networks"),
    ],
)
def test_merges_that_cannot_be(settings: dict[str, object], message: str) -> None:
    _, graph, states = two_seeds("mlp")
    with pytest.raises(ValueError, match=message):
        gmn_opt.merge(graph, states, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least two networks"):
        gmn_opt.merge(graph, states[:1])
    with pytest.raises(ValueError, match="differ in"):
        average([states[0], mlp(4, 7, 5, 3).state_dict()])


def test_running_statistics_become_those_of_the_data() -> None:
    model, graph, states = two_seeds("mlp_batch_norm")
    data = [torch.randn(50, 4) + 2 for _ in range(3)]
    merged = gmn_opt.merge(graph, states, model=model, data=data)
    plain = gmn_opt.merge(graph, states)
    hidden = [x @ merged["0.weight"].T + merged["0.bias"] for x in data]
    expected = torch.stack([h.mean(0) for h in hidden]).mean(0)
    torch.testing.assert_close(merged["1.running_mean"], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain["1.running_mean"], expected, atol=1e-2)
    assert all(torch.equal(merged[n], plain[n]) for n in graph.shapes)
    with pytest.raises(ValueError, match="data holds no batch"):
        renormalize(model, merged, [])


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_repaired_neurons_have_the_spread_of_the_ends(name: str) -> None:
    model, graph, (a, b) = two_seeds(name)
    shape = BY_NAME[name].make()[1][0].shape[1:]
    data = [torch.randn(40, *shape) for _ in range(2)]
    state = average([a, b], [0.25, 0.75])
    fixed = repair(model, graph, state, [a, b], data, [0.25, 0.75])

    def spread(state: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        rows: list[list[Tensor]] = []
        layers = [x for x in model if isinstance(x, nn.Linear | nn.Conv2d)][:-1]  # type: ignore[attr-defined]
        for layer in layers:
            rows.append([])
            layer.register_forward_hook(lambda _, __, y, r=rows[-1]: r.append(y))
        for x in data:
            torch.func.functional_call(model, state, (x,))
        for layer in layers:
            layer._forward_hooks.clear()
        flat = [torch.cat([y.transpose(0, 1).flatten(1) for y in r], 1) for r in rows]
        return [(y.mean(1), y.std(1, correction=0)) for y in flat]

    for one, two, now in zip(spread(a), spread(b), spread(fixed), strict=True):
        for k in (0, 1):
            expected = 0.25 * one[k] + 0.75 * two[k]
            torch.testing.assert_close(now[k], expected, rtol=1e-3, atol=1e-4)
    last = list(state)[-1]
    assert torch.equal(fixed[last], state[last])


def test_losses_along_a_path(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False)
    a, b = ({"weight": torch.tensor([[w]])} for w in (-1.0, 1.0))

    def loss(network: nn.Module) -> float:
        return 1 - float(network(torch.ones(1, 1))) ** 2

    losses = losses_along_path(model, a, b, loss, points=5)
    assert losses == pytest.approx([0, 0.75, 1, 0.75, 0])
    assert barrier(losses) == pytest.approx(1)
    assert barrier([1.0, 1.2, 2.0]) == 0
    moved = losses_along_path(
        model, a, b, loss, points=5, renew=lambda s, t: {"weight": s["weight"] * 0 + t}
    )
    assert moved == pytest.approx([0, 1 - 0.25**2, 0.75, 1 - 0.75**2, 0])
    plot_paths({"as they are": losses}, tmp_path / "path.svg")
    assert (tmp_path / "path.svg").stat().st_size > 1000
    with pytest.raises(ValueError, match="must end in"):
        plot_paths({}, tmp_path / "path.txt")
    with pytest.raises(ValueError, match="at least its two ends"):
        losses_along_path(model, a, b, loss, points=1)
    with pytest.raises(ValueError, match="at least its two ends"):
        barrier([1.0])
