"""Fitting, sampling and keeping generators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.generate import FieldConfig, FlowConfig, Generator, fit_generator
from gmn_opt.inr import SirenConfig
from gmn_opt.inr.editor import traced
from gmn_opt.metanet import blocked
from gmn_opt.weights import WeightsError
from tests.generate.networks import mlp, mlp_graph, mlps

SMALL = FieldConfig(hidden=8, edge_hidden=4, layers=1)
QUICK = FlowConfig(steps=4, batch=4, check_every=2)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("optimizer", ["adamw", "gmn"])
def test_a_mean_network_is_learned(optimizer: Any) -> None:
    graph, networks = mlp_graph(), mlps(64)
    flow = FlowConfig(steps=120, batch=32, optimizer=optimizer, lr=1e-2, average=0.95)
    losses: list[float] = []
    generator = fit_generator(
        networks, graph, field=FieldConfig(hidden=24, edge_hidden=8, layers=2), flow=flow,
        on_step=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    made = generator.sample(64, steps=10)
    # biases of the output keep their place: their mean over the networks must be found
    for name in ("2.bias",):
        apart = (made[name].mean(0) - networks[name].mean(0)).abs().max()
        assert float(apart) < 0.25 * float(networks[name].abs().max())


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_samples_do_not_depend_on_the_order_of_neurons(method: str) -> None:
    graph = mlp_graph()
    generator = fit_generator(mlps(8), graph, field=SMALL, flow=QUICK)
    generator.field.double()
    symmetry = graph.random_symmetry(torch.Generator().manual_seed(3))
    noise = generator.units.noise(graph, 3, torch.Generator().manual_seed(4)).double()
    layout = blocked(graph)
    moved = layout.flatten(symmetry.apply(layout.unflatten(noise)))
    first = generator.sample(3, noise=noise, steps=3, method=method)  # type: ignore[arg-type]
    second = generator.sample(3, noise=moved, steps=3, method=method)  # type: ignore[arg-type]
    for name, wanted in symmetry.apply(first).items():
        torch.testing.assert_close(second[name], wanted, rtol=0, atol=1e-10)


def test_permuted_training_networks_have_the_same_loss() -> None:
    """The distribution that is learned does not depend on the order of neurons."""
    graph, networks = mlp_graph(), mlps(2)
    symmetry = graph.random_symmetry(torch.Generator().manual_seed(5))
    losses: list[list[float]] = [[], []]
    for states, seen in zip((networks, symmetry.apply(networks)), losses, strict=True):
        flow = FlowConfig(steps=60, batch=16, lr=1e-6, warmup=0.0)
        fit_generator(states, graph, field=SMALL, flow=flow, on_step=lambda _, x: seen.append(x))  # noqa: B023
    first, second = (sum(s) / len(s) for s in losses)
    assert first == pytest.approx(second, rel=0.05)


def test_conditions_tell_networks_apart() -> None:
    graph = mlp_graph()
    networks = {n: torch.cat([t + 2, t - 2]) for n, t in mlps(16).items()}
    classes = torch.tensor([3] * 16 + [7] * 16)
    flow = FlowConfig(steps=80, batch=32, lr=1e-2, average=0.95)
    field = FieldConfig(hidden=16, edge_hidden=8, layers=1)
    generator = fit_generator(networks, graph, conditions=classes, field=field, flow=flow)
    high, low = (generator.sample(8, c, steps=8)["2.bias"].mean() for c in (3, 7))
    assert float(high) > float(low) + 1
    with pytest.raises(ValueError, match=r"Unknown class 4; this generator knows \[3, 7\]"):
        generator.sample(1, 4)
    guided = generator.sample(8, 3, steps=8, guidance=2.0)["2.bias"].mean()
    assert float(guided) > float(low) + 1


@pytest.mark.parametrize("optimizer", ["adamw", "gmn"])
def test_resumed_fits_end_alike(optimizer: Any, tmp_path: Path) -> None:
    graph, networks = mlp_graph(), mlps(8)
    flow = replace(QUICK, optimizer=optimizer)
    whole = fit_generator(networks, graph, field=SMALL, flow=flow)

    def stop(done: int, _: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_generator(networks, graph, field=SMALL, flow=flow, out=tmp_path, on_step=stop)
    done: list[int] = []
    resumed = fit_generator(
        networks, graph, field=SMALL, flow=flow, out=tmp_path, resume=True,
        on_step=lambda n, _: done.append(n),
    )  # fmt: skip
    assert done == [3, 4]
    assert same(whole.sample(2), resumed.sample(2))
    other = replace(flow, batch=5)
    with pytest.raises(ValueError, match="other \\['batch'\\]"):
        fit_generator(networks, graph, field=SMALL, flow=other, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="No checkpoint"):
        fit_generator(networks, graph, field=SMALL, flow=flow, out=tmp_path / "no", resume=True)


def test_resumed_fits_notice_other_data(tmp_path: Path) -> None:
    graph, networks = mlp_graph(), mlps(8)
    flow = replace(QUICK, function="mse")
    given: dict[str, Any] = {"conditions": torch.arange(8) % 2, "inputs": torch.ones(5, 3)}
    fixed: dict[str, Any] = {"field": SMALL, "flow": flow, "model": mlp(), "out": tmp_path}
    fit_generator(networks, graph, stop=2, **given, **fixed)
    turned = {n: t.flip(0) for n, t in networks.items()}
    with pytest.raises(ValueError, match="other \\['networks'\\]"):
        fit_generator(turned, graph, resume=True, **given, **fixed)
    others = {"conditions": given["conditions"].flip(0), "inputs": 2 * given["inputs"]}
    for name, value in others.items():
        with pytest.raises(ValueError, match=f"other \\['{name}'\\]"):
            fit_generator(networks, graph, resume=True, **(given | {name: value}), **fixed)
    fit_generator(networks, graph, resume=True, **given, **fixed)


def test_files_keep_generators_of_inrs(tmp_path: Path) -> None:
    config = SirenConfig(widths=(4, 4))
    model = config.build(torch.Generator().manual_seed(0))
    graph = traced(model)
    networks = {
        n: p.detach() + 0.1 * torch.randn(9, *p.shape, generator=torch.Generator().manual_seed(1))
        for n, p in model.named_parameters()
    }
    flow = FlowConfig(steps=3, batch=4, shared_order=True, rank=3)
    generator = fit_generator(
        networks, graph, conditions=torch.arange(9) % 2, model=model, flow=flow,
        field=FieldConfig(hidden=8, edge_hidden=4, layers=1, probes=4),
    )  # fmt: skip
    generator.save(tmp_path / "g.safetensors")
    read = Generator.load(tmp_path / "g.safetensors")
    assert same(generator.sample(3, 1), read.sample(3, 1))
    assert read.about == generator.about
    with pytest.raises(ValueError, match="shared order"):
        read.sample(1, graph=traced(SirenConfig(widths=(4, 6)).build()))
    with pytest.raises(WeightsError, match="no weights file"):
        Generator.load(tmp_path / "none.safetensors")


def test_files_with_probes_need_the_model(tmp_path: Path) -> None:
    graph, model = mlp_graph(), mlp()
    field = FieldConfig(hidden=8, edge_hidden=4, layers=1, probes=3)
    generator = fit_generator(
        mlps(4), graph, field=field, flow=QUICK, model=model, example=torch.randn(2, 3)
    )
    generator.save(tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match="pass model="):
        Generator.load(tmp_path / "g.safetensors")
    assert same(generator.sample(2), Generator.load(tmp_path / "g.safetensors", model).sample(2))


def test_one_generator_serves_several_widths() -> None:
    graphs = [mlp_graph(5), mlp_graph(7)]
    numbers = torch.randn(12)
    generator = fit_generator(
        [mlps(6, 5), mlps(6, 7)], graphs, conditions=numbers, field=SMALL, flow=QUICK
    )
    for width in (5, 7, 9):
        made = generator.sample(2, 0.5, graph=mlp_graph(width))
        assert made["0.weight"].shape == (2, width, 3)
    with pytest.raises(ValueError, match="one set per graph"):
        fit_generator([mlps(6, 5)], graphs, field=SMALL, flow=QUICK)
    states = [mlp(5).state_dict(), mlp(7).state_dict()]
    with pytest.raises(ValueError, match="list of graphs"):
        fit_generator(states, graphs[0], field=SMALL, flow=QUICK)


def test_unusable_networks_are_refused() -> None:
    graph, networks = mlp_graph(), mlps(4)
    broken = {n: t.clone() for n, t in networks.items()}
    broken["0.weight"][2, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="Network 2: '0.weight' holds NaN"):
        fit_generator(broken, graph)
    with pytest.raises(ValueError, match="at least two networks"):
        fit_generator([mlp()], graph)
    with pytest.raises(ValueError, match="has no|have no"):
        fit_generator({n: t for n, t in networks.items() if n != "0.bias"}, graph)
    with pytest.raises(ValueError, match="condition for each of 4"):
        fit_generator(networks, graph, conditions=torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        fit_generator(networks, graph, conditions=torch.tensor([1.0, 2.0, torch.nan, 3.0]))
    with pytest.raises(ValueError, match="shared_order=True"):
        FlowConfig(rank=3)
    with pytest.raises(ValueError, match="received 'muon'"):
        FlowConfig(optimizer="muon")  # type: ignore[arg-type]
    generator = fit_generator(networks, graph, field=SMALL, flow=QUICK)
    with pytest.raises(ValueError, match="without conditions"):
        generator.sample(1, 2)
    with pytest.raises(ValueError, match="No method"):
        generator.sample(1, method="rk4")  # type: ignore[arg-type]
