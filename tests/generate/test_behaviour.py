"""What generated networks do, as a part of the loss of a generator."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from gmn_opt.generate import FieldConfig, FlowConfig, fit_generator
from gmn_opt.generate.behaviour import Behaviour, Gap, gaps, lateness
from gmn_opt.generate.paths import Paths
from gmn_opt.generate.units import Units
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked
from tests.generate.networks import mlp, mlp_graph, mlps

SMALL = FieldConfig(hidden=8, edge_hidden=4, layers=1)
INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def behaviour(kind: Gap = "mse", count: int = 6, conditions: Tensor | None = None) -> Behaviour:
    graph = mlp_graph()
    flat = blocked(graph).flatten(mlps(count))
    units = Units.of([(graph, flat)], neurons=True)
    known = torch.zeros(count, 0) if conditions is None else conditions
    return Behaviour(mlp(), graph, units, units.into(graph, flat), known, None, INPUTS, kind)


def random(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(graph: ParameterGraph, at: Tensor, time: Tensor, told: Tensor) -> Tensor:
    """A field that does not move."""
    return torch.zeros_like(at)


def test_networks_say_what_the_module_says() -> None:
    own, networks = behaviour(), mlps(6)
    said = own.says(own.values, INPUTS)
    for i in range(6):
        wanted = functional_call(mlp(), {n: t[i] for n, t in networks.items()}, (INPUTS,))
        torch.testing.assert_close(said[i], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_a_gap_is_zero_for_the_network_itself_and_grows(kind: Gap) -> None:
    own = behaviour(kind)
    times = torch.linspace(0, 1, len(own.values))
    apart = [
        float(own.on_the_way(own.values + size, own.values, times, random()))
        for size in (0, 0.1, 0.5)
    ]
    assert apart[0] == pytest.approx(0, abs=1e-6)
    assert apart[0] < apart[1] < apart[2]
    permuted = own.graph.random_symmetry(random(3))
    layout = blocked(own.graph)
    moved = layout.flatten(permuted.apply(layout.unflatten(own.values)))
    assert float(own.on_the_way(moved, own.values, times, random())) == pytest.approx(0, abs=1e-6)


def test_gaps_are_those_of_the_formulas() -> None:
    made, wanted = (torch.randn(2, 5, 3, generator=random(s)).double() for s in (2, 3))
    p, q = wanted.softmax(-1), made.softmax(-1)
    by_hand = (p * (p / q).log()).sum(-1).mean(1)
    torch.testing.assert_close(gaps("kl", made, wanted), by_hand)
    torch.testing.assert_close(gaps("kl", made + 7, wanted), by_hand)
    spread = ((wanted - wanted.mean(1, keepdim=True)) ** 2).mean()
    by_hand = ((made - wanted) ** 2).mean((1, 2)) / spread
    torch.testing.assert_close(gaps("mse", made, wanted), by_hand)


def test_what_a_velocity_does_counts_alike_at_all_times() -> None:
    times = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    counts = lateness(times)
    assert float(counts.mean()) == pytest.approx(1, abs=1e-3)
    early, late = lateness(torch.tensor([0.1, 0.8]).double())
    assert float(late / early) == pytest.approx(0.93 / 0.23)  # 0.03 more than what is left
    assert torch.equal(lateness(torch.tensor([1.0, 1.1])), lateness(torch.ones(2)))


def test_paths_are_judged_by_the_networks_of_their_condition() -> None:
    one_hot = torch.tensor([[1.0, 0.0, 1.0]] * 3 + [[0.0, 1.0, 1.0]] * 3)
    own = behaviour(conditions=one_hot)
    own.on_its_own(still, 8, random())
    said = own.says(own.values, INPUTS)
    expected = own._expected(INPUTS, random())
    for i, of in enumerate(own.paths.of.tolist()):
        part = said[:3] if of < 3 else said[3:]
        torch.testing.assert_close(expected[i], part.mean(0))


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_generators_that_know_what_networks_do_say_the_right_things(kind: Gap) -> None:
    graph, networks = mlp_graph(), mlps(24)
    apart = []
    for function in (None, kind):
        flow = FlowConfig(
            steps=150, batch=16, lr=1e-2, average=0.95, neurons=True,
            function=function, function_weight=5.0,
        )  # fmt: skip
        field = FieldConfig(hidden=16, edge_hidden=8, layers=1)
        generator = fit_generator(
            networks, graph, field=field, flow=flow, model=mlp(), inputs=INPUTS
        )
        made = generator.units.into(graph, blocked(graph).flatten(generator.sample(32, steps=8)))
        own = behaviour(kind, 24)
        said = own.says(made, INPUTS)
        wanted = own.says(own.values, INPUTS).mean(0).expand_as(said)
        apart.append(float(gaps(kind, said, wanted).mean()))
    assert apart[1] < 0.7 * apart[0]


def unsure(values: Tensor, inputs: Tensor) -> Behaviour:
    own = behaviour("kl")
    known = torch.zeros(len(values), 0)
    return Behaviour(mlp(), own.graph, own.units, values, known, None, inputs, "kl", unsure=0.5)


def test_inputs_where_networks_are_unsure_are_drawn_more_often() -> None:
    sure = 40 * torch.ones(20, 1) * INPUTS[:1]
    inputs = torch.cat([sure, 0.01 * INPUTS[:20]])
    drawn = unsure(behaviour().values, inputs)
    said = drawn.says(drawn.values, inputs)
    mean = (said - said.mean(-1, keepdim=True)).mean(0).softmax(-1)
    entropy = -(mean * mean.log()).sum(-1)
    assert drawn.odds is not None
    torch.testing.assert_close(drawn.odds, 0.5 / 40 + 0.5 * entropy / entropy.sum())
    seen = drawn._draw(random())
    share = float((seen.norm(dim=-1) < 1).float().mean())
    assert share == pytest.approx(float(drawn.odds[20:].sum()), abs=0.1)
    assert share > 0.6


def test_who_is_unsure_does_not_depend_on_the_order_of_networks() -> None:
    values = behaviour(count=6).values
    groups = [v.expand(300, -1) for v in (values[:1], 3 * values[1:2])]
    odds = [unsure(torch.cat(order), INPUTS).odds for order in (groups, groups[::-1])]
    torch.testing.assert_close(odds[0], odds[1])
    with pytest.raises(ValueError, match="set unsure=0"):
        unsure(1e38 * values, INPUTS)


def test_resumed_fits_end_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of rounds of correction."""
    corrected, plain = [], Paths.go_on

    def counting(paths: Paths, velocity: Tensor, generator: torch.Generator) -> None:
        corrected.append(int(paths.correcting.sum()))
        plain(paths, velocity, generator)

    monkeypatch.setattr(Paths, "go_on", counting)
    graph, networks = mlp_graph(), mlps(8)
    flow = FlowConfig(steps=40, batch=8, function="kl", corrections=9, unsure=0.5)
    fit = {"field": SMALL, "flow": flow, "model": mlp(), "inputs": INPUTS}
    whole = fit_generator(networks, graph, **fit)  # type: ignore[arg-type]
    stop = next(i for i, (a, b) in enumerate(itertools.pairwise(corrected)) if a and b) + 1
    fit_generator(networks, graph, out=tmp_path, stop=stop, **fit)  # type: ignore[arg-type]
    resumed = fit_generator(networks, graph, out=tmp_path, resume=True, **fit)  # type: ignore[arg-type]
    first, second = whole.sample(2), resumed.sample(2)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_one_fit_compares_several_widths_and_classes() -> None:
    graphs = [mlp_graph(5), mlp_graph(7)]
    generator = fit_generator(
        [mlps(6, 5), mlps(6, 7)], graphs, conditions=torch.arange(12) % 3, field=SMALL,
        flow=FlowConfig(steps=40, batch=4, function="kl", corrections=2, unsure=0.5),
        model=mlp(), inputs=INPUTS,
    )  # fmt: skip
    assert generator.sample(2, 1, graph=graphs[1])["0.weight"].shape == (2, 7, 3)
    # what is left open was not corrected in the fit
    for given in ({"condition": 1, "guidance": 2.0}, {"condition": None}):
        free = generator.sample(2, steps=3, **given)
        none = generator.sample(2, steps=3, corrections=0, **given)
        assert all(torch.equal(free[n], none[n]) for n in free)
    asked, none = (generator.sample(2, 1, steps=3, corrections=k) for k in (None, 0))
    assert not torch.equal(asked["0.weight"], none["0.weight"])


def test_what_cannot_be_compared_is_refused() -> None:
    graph, networks = mlp_graph(), mlps(4)
    flow = FlowConfig(steps=2, function="kl")
    with pytest.raises(ValueError, match="pass model="):
        fit_generator(networks, graph, field=SMALL, flow=flow, inputs=INPUTS)
    with pytest.raises(ValueError, match="inputs=, a tensor"):
        fit_generator(networks, graph, field=SMALL, flow=flow, model=mlp())
    with pytest.raises(ValueError, match=r"cannot be called with inputs \[9, 4\]"):
        fit_generator(
            networks, graph, field=SMALL, flow=flow, model=mlp(), inputs=torch.zeros(9, 4)
        )
    broken = INPUTS.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="inputs hold NaN"):
        fit_generator(networks, graph, field=SMALL, flow=flow, model=mlp(), inputs=broken)
    with pytest.raises(ValueError, match="function is one of"):
        FlowConfig(function="mae")  # type: ignore[arg-type]
    for settings in ({"function": "mse", "unsure": 0.5}, {"function": "kl", "unsure": 1.0}):
        with pytest.raises(ValueError, match="unsure=[01].[05] must be"):
            FlowConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="function_weight must be positive"):
        FlowConfig(function="kl", function_weight=0.0)
