"""Units in which the neurons of training networks are white."""

from __future__ import annotations

import pytest
import torch

from gmn_opt.generate import FlowConfig, Generator, Units, fit_generator
from gmn_opt.generate.fitting import shares
from gmn_opt.generate.neurons import rows_of
from gmn_opt.generate.units import stacked
from gmn_opt.metanet import blocked
from tests.generate.networks import mlp_graph, mlps
from tests.generate.test_fitting import SMALL


def test_neurons_are_white_and_come_back() -> None:
    graph, networks = mlp_graph(), mlps(200)
    flat = stacked(networks, graph)
    units = Units.of([(graph, flat)], neurons=True)
    assert rows_of(graph) == [{"0.weight": 0, "0.bias": 0, "2.weight": 1}]
    values = units.into(graph, flat)
    torch.testing.assert_close(units.back(graph, values), flat, rtol=0, atol=1e-5)
    named = blocked(graph).unflatten(values)
    rows = torch.cat([named["0.weight"], named["0.bias"][..., None], named["2.weight"].mT], -1)
    covariance = rows.flatten(0, 1).T.cov(correction=0)
    torch.testing.assert_close(covariance, torch.eye(6), rtol=0, atol=1e-3)
    assert rows.mean((0, 1)).abs().max() < 1e-4


def test_noise_has_the_covariance_of_neurons() -> None:
    graph, networks = mlp_graph(), mlps(50)
    units = Units.of([(graph, stacked(networks, graph))], neurons=True)
    noise = units.noise(graph, 4000, torch.Generator().manual_seed(0))
    made = blocked(graph).unflatten(units.back(graph, noise))
    for name in ("0.weight", "2.weight"):
        dim = 0 if name == "0.weight" else 1
        mine, wanted = (
            x[name].movedim(1 + dim, 1).flatten(0, 1).double().T.cov(correction=0)
            for x in (made, networks)
        )
        torch.testing.assert_close(mine, wanted, rtol=0, atol=0.1 * float(wanted.diagonal().mean()))


def test_files_keep_them(tmp_path: object) -> None:
    graph = mlp_graph()
    flow = FlowConfig(steps=2, batch=4, neurons=True, balance=0.5)
    generator = fit_generator(mlps(8), graph, field=SMALL, flow=flow)
    path = f"{tmp_path}/generator.safetensors"
    generator.save(path)
    again = Generator.load(path)
    first, second = generator.sample(3, steps=2), again.sample(3, steps=2)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])


def test_balanced_losses_count_tensors() -> None:
    graph = mlp_graph()
    each = blocked(graph).unflatten(shares(graph, 1.0).unsqueeze(0))
    sums = [float(t.sum()) for t in each.values()]
    assert sums == pytest.approx([sums[0]] * 4)
    assert float(shares(graph, 0.5).mean()) == pytest.approx(1)
    assert torch.equal(shares(graph, 0.0), torch.ones(5 * 3 + 5 + 2 * 5 + 2))


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="in no order"):
        FlowConfig(neurons=True, shared_order=True)
    with pytest.raises(ValueError, match="balance"):
        FlowConfig(balance=2.0)
