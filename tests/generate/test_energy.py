"""The energy of a network: its value, its gradient, and what follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from gmn_opt.generate import FieldConfig, FlowConfig, Generator, fit_generator
from gmn_opt.generate.behaviour import Gap
from gmn_opt.generate.energy import Energy
from gmn_opt.generate.units import Units, stacked
from gmn_opt.inr import SirenConfig
from gmn_opt.inr.editor import traced
from gmn_opt.metanet import blocked
from tests.generate.networks import mlp, mlp_graph, mlps

INPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def made(kind: Gap) -> tuple[Energy, Units, torch.Tensor]:
    graph = mlp_graph()
    flat = stacked(mlps(4), graph)
    units = Units.of([(graph, flat)], neurons=True)
    energy = Energy(mlp(), INPUTS, kind).double()
    with torch.no_grad():
        energy.answers.copy_(torch.randn(energy.answers.shape, generator=torch.Generator()))
    return energy, units, units.into(graph, flat).double()


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_an_energy_is_how_far_a_network_is_from_the_answers(kind: Gap) -> None:
    energy, units, values = made(kind)
    graph = mlp_graph()
    found = energy(graph, units, values)
    named = blocked(graph).unflatten(units.back(graph, values))
    for i in range(len(values)):
        own = {n: t[i] for n, t in named.items()}
        said = functional_call(mlp().double(), own, (energy.inputs,))
        if kind == "kl":
            p, q = energy.answers.softmax(-1), said.softmax(-1)
            wanted = (p * (p / q).log()).sum(-1).mean()
        else:
            wanted = 0.5 * (said - energy.answers).square().mean()
        torch.testing.assert_close(found[i], wanted)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_slopes_are_finite_differences(kind: Gap) -> None:
    energy, units, values = made(kind)
    graph = mlp_graph()
    with torch.no_grad():  # as in sampling
        slope = energy.slope(graph, units, values)
    random = torch.Generator().manual_seed(1)
    for _ in range(3):
        way = torch.randn(values.shape, generator=random, dtype=values.dtype)
        up, down = (energy(graph, units, values + size * way) for size in (1e-6, -1e-6))
        torch.testing.assert_close((up - down) / 2e-6, (slope * way).sum(-1), rtol=1e-5, atol=1e-8)
    inputs = torch.autograd.grad(energy.slope(graph, units, values).square().sum(), energy.inputs)
    assert float(inputs[0].abs().max()) > 0  # inputs are learned through it


def test_generators_with_anchors_come_back_from_a_file(tmp_path: Path) -> None:
    flow = FlowConfig(steps=3, batch=4, function="kl")
    field = FieldConfig(8, 4, 1, anchors=5)
    fit = {"model": mlp(), "example": INPUTS[:2], "inputs": INPUTS}
    generator = fit_generator(mlps(6), mlp_graph(), field=field, flow=flow, **fit)  # type: ignore[arg-type]
    generator.save(tmp_path / "made.safetensors")
    again = Generator.load(tmp_path / "made.safetensors", mlp())
    first, second = generator.sample(2, steps=3), again.sample(2, steps=3)
    assert all(torch.equal(first[n], second[n]) for n in first)
    with pytest.raises(ValueError, match="pass model="):
        Generator.load(tmp_path / "made.safetensors")


def test_anchors_of_inrs_are_places(tmp_path: Path) -> None:
    config = SirenConfig(widths=(4, 5))
    model = config.build(torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(0)
    networks = {
        n: p.detach() + 0.1 * torch.randn(6, *p.shape, generator=random)
        for n, p in model.named_parameters()
    }
    field = FieldConfig(8, 4, 1, probes=4, anchors=9, answers="mse")
    flow = FlowConfig(steps=2, batch=3)
    generator = fit_generator(networks, traced(model), field=field, flow=flow, model=model)
    assert generator.field.energy is not None
    assert generator.field.energy.inputs.shape == (9, 2)
    generator.save(tmp_path / "made.safetensors")
    first = generator.sample(2, steps=2)
    second = Generator.load(tmp_path / "made.safetensors").sample(2, steps=2)
    assert all(torch.equal(first[n], second[n]) for n in first)
