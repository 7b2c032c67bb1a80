"""The velocity field is equivariant, whatever it reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gmn_opt.generate.units import Units, stacked
from gmn_opt.generate.velocity import FieldConfig, VelocityField, gaussian_part
from gmn_opt.graph import ParameterGraph
from gmn_opt.inr import SirenConfig
from gmn_opt.inr.editor import traced
from gmn_opt.metanet import blocked
from tests.generate.networks import mlp, mlp_graph, mlps


def randomized(field: VelocityField) -> VelocityField:
    """In double precision, with no parameter at zero."""
    random = torch.Generator().manual_seed(1)
    field = field.double()
    with torch.no_grad():
        for p in field.parameters():
            p.copy_(torch.randn(p.shape, generator=random, dtype=p.dtype) * 0.3)
    return field


def permuted(graph: ParameterGraph, flat: torch.Tensor, symmetry: object) -> torch.Tensor:
    """Flat networks after a symmetry."""
    layout = blocked(graph)
    return layout.flatten(symmetry.apply(layout.unflatten(flat)))  # type: ignore[attr-defined]


def gap(field: VelocityField, graph: ParameterGraph, moved_units: Units | None = None) -> float:
    """Largest difference between permuting what goes in and what comes out."""
    random = torch.Generator().manual_seed(2)
    size = sum(blocked(graph).edge_counts)
    x = torch.randn(3, size, generator=random, dtype=torch.float64)
    time = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    condition = torch.randn(3, 4, generator=random, dtype=torch.float64)
    symmetry = graph.random_symmetry(random)
    field.requires_grad_(False)
    out = field(graph, x, time, condition)
    if moved_units is not None:
        units = field.units
        for name in ("center", "directions"):
            value = getattr(units, name)
            if value is not None:
                setattr(moved_units, name, permuted(graph, value, symmetry))
        moved_units.means, moved_units.factors = units.means, units.factors
        field.units = moved_units
    moved = field(graph, permuted(graph, x, symmetry), time, condition)
    wanted = permuted(graph, out, symmetry)
    assert not torch.allclose(out, wanted)  # the symmetry moves something
    return float((moved - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("probes", "carried", "anchors", "neurons"),
    [(0, 0, 0, False), (5, 0, 0, True), (5, 3, 0, True), (0, 0, 4, False), (5, 3, 4, True)],
)
def test_field_is_equivariant_for_an_mlp(
    probes: int, carried: int, anchors: int, neurons: bool
) -> None:
    graph = mlp_graph()
    units = Units.of([(graph, stacked(mlps(4), graph))], neurons=neurons)
    config = FieldConfig(8, 4, 2, probes=probes, carried=carried, anchors=anchors)
    model = mlp()
    field = VelocityField(config, units, 4, model=model, graph=graph, example=torch.randn(2, 3))
    assert gap(randomized(field), graph) < 1e-10


@pytest.mark.parametrize("rank", [0, 2])
def test_field_is_equivariant_together_with_the_mean_network(rank: int) -> None:
    config = SirenConfig(widths=(4, 5))
    model = config.build(torch.Generator().manual_seed(0))
    graph = traced(model)
    random = torch.Generator().manual_seed(0)
    networks = {
        n: p.detach() + 0.1 * torch.randn(6, *p.shape, generator=random)
        for n, p in model.named_parameters()
    }
    units = Units.of([(graph, stacked(networks, graph).double())], shared_order=True, rank=rank)
    sizes = FieldConfig(hidden=8, edge_hidden=4, layers=2, probes=9)
    field = randomized(VelocityField(sizes, units, 4, model=model, graph=graph))
    moved = Units(units.scale)
    assert gap(field, graph, moved) < 1e-10


def test_gaussian_part_is_the_conditional_mean() -> None:
    random = torch.Generator().manual_seed(0)
    noise, data = torch.randn(2, 200_000, generator=random, dtype=torch.float64)
    for t in (0.1, 0.5, 0.8):
        at = noise + t * (data - noise)
        slope = (at * (data - noise)).mean() / at.square().mean()
        assert gaussian_part(torch.tensor(t)).item() == pytest.approx(slope.item(), abs=0.01)


def test_probes_need_a_model() -> None:
    graph = mlp_graph()
    units = Units.of([(graph, stacked(mlps(3), graph))])
    with pytest.raises(ValueError, match="pass model="):
        VelocityField(FieldConfig(probes=4), units)
    with pytest.raises(ValueError, match="need example="):
        VelocityField(FieldConfig(probes=4), units, model=nn.Sequential(mlp()), graph=graph)
    with pytest.raises(ValueError, match="at least 1"):
        FieldConfig(hidden=0)


def test_anchors_need_something_to_call() -> None:
    graph = mlp_graph()
    units = Units.of([(graph, stacked(mlps(3), graph))])
    sizes = FieldConfig(anchors=4)
    with pytest.raises(ValueError, match="call a network: pass model="):
        VelocityField(sizes, units)
    for example in (None, torch.ones(2, 3, dtype=torch.int64), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match="begin as example="):
            VelocityField(sizes, units, model=mlp(), graph=graph, example=example)
    with pytest.raises(ValueError, match=r"cannot be called with \[4, 7\]"):
        VelocityField(sizes, units, model=mlp(), graph=graph, example=torch.zeros(2, 7))
    with pytest.raises(ValueError, match="answers is one of"):
        FieldConfig(anchors=4, answers="l1")  # type: ignore[arg-type]
