"""Samples under way during a fit."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.generate import FieldConfig, FlowConfig, fit_generator
from gmn_opt.generate.paths import LATE, Paths, back
from gmn_opt.metanet import blocked
from tests.generate.networks import mlp, mlp_graph, mlps

INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def noise(of: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(len(of), 5, generator=random)


def walk(paths: Paths, rounds: int, velocity: float = 0.0, batch: int = 4) -> list[Tensor]:
    """The times at which a field is asked."""
    random, times = torch.Generator().manual_seed(1), []
    for _ in range(rounds):
        paths.open(batch, random)
        times.append(paths.times)
        paths.go_on(torch.full_like(paths.points, velocity), random)
    return times


def test_paths_go_on_and_begin_anew() -> None:
    paths = Paths(noise, 6)
    times = walk(paths, 60)
    falls = sum(int((b < a).sum()) for a, b in itertools.pairwise(times))
    assert 4 <= falls <= 24  # sixteen steps each on average
    assert float(torch.stack(times).max()) < 1
    assert len(walk(paths, 1, batch=7)[0]) == 7


def test_paths_go_on_as_they_were_kept() -> None:
    paths, kept = Paths(noise, 6, 3), Paths(noise, 6, 3)
    assert not kept.state()
    walk(paths, 40)
    kept.restore(paths.state())
    for a, b in zip(walk(paths, 40, 0.5), walk(kept, 40, 0.5), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(paths.points, kept.points)


def test_every_number_of_corrections_is_met_and_none_is_more() -> None:
    times = torch.stack(walk(Paths(noise, 6, 3), 400)).T
    counts = set()
    for path in times:
        begun = (path == 0).nonzero().flatten().tolist()
        for first, last in itertools.pairwise(begun):
            assert bool((path[first:last].diff() > LATE - 1).all())  # from the end back to LATE
            counts.add(int((path[first:last] == LATE).sum()))
    assert counts == {0, 1, 2, 3}


def test_a_correction_goes_back_and_all_of_the_way_again() -> None:
    paths, random = Paths(noise, 6, 1), torch.Generator().manual_seed(1)
    met = 0
    for _ in range(80):
        ends = paths.points
        paths.open(4, random)
        now, at, begun = paths.points, paths.times, paths.begun
        if bool(paths.correcting.any()):
            expected = begun + LATE * (ends - begun)
            torch.testing.assert_close(now[paths.correcting], expected[paths.correcting])
            torch.testing.assert_close(back(ends, begun), expected)
        assert torch.equal(now[at == 0], begun[at == 0])
        paths.go_on(torch.ones(4, 5), random)
        torch.testing.assert_close((paths.points - now)[:, 0], paths.times - at)
        assert bool((paths.times[paths.correcting] == 1).all())
        met += int(paths.correcting.sum())
    assert met


def test_paths_that_went_astray_begin_anew() -> None:
    for far in (1e6, float("nan")):
        paths = Paths(noise, 6, 3)
        assert bool((torch.stack(walk(paths, 5, far)) == 0).all())


def test_samples_are_corrected_as_paths_are() -> None:
    generator = fit_generator(
        mlps(8), mlp_graph(), field=FieldConfig(hidden=8, edge_hidden=4, layers=1),
        flow=FlowConfig(steps=6, batch=4, function="mse", corrections=2), model=mlp(),
        inputs=INPUTS,
    )  # fmt: skip
    graph, units = generator.graph, generator.units
    plain, twice = (generator.sample(3, steps=4, corrections=k) for k in (0, None))
    at = units.into(graph, blocked(graph).flatten(plain))
    begun = units.noise(graph, 3, torch.Generator().manual_seed(0))
    known = generator.conditions.encode(None, 3)
    with torch.no_grad():
        for _ in range(2):
            at = begun + LATE * (at - begun)
            velocity = generator.field(graph, at, torch.full((3,), LATE), known)
            at = at + (1 - LATE) * velocity
    by_hand = blocked(graph).unflatten(units.back(graph, at))
    for name, tensor in twice.items():
        torch.testing.assert_close(tensor, by_hand[name])
        assert not torch.equal(tensor, plain[name])
    for name, tensor in generator.sample(3, steps=4, corrections=2).items():
        assert torch.equal(tensor, twice[name])
    with pytest.raises(ValueError, match="corrections at least 0"):
        generator.sample(1, corrections=-1)


def test_corrections_of_weights_alone_are_refused() -> None:
    settings: list[dict[str, Any]] = [
        {"corrections": 4},
        *({"corrections": wrong, "function": "kl"} for wrong in (-1, 2.0, 20_000)),
    ]
    for given in settings:
        with pytest.raises(ValueError, match="corrections=.* must be a whole number"):
            FlowConfig(**given)
