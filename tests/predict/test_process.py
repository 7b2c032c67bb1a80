"""Gaussian processes: exact leave-one-out answers, shares, and what they are saved as."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gmn_opt.predict import Predictor, Recipe, calibrate, fit_predictor
from gmn_opt.predict.networks import as_networks, stacked
from gmn_opt.predict.process import Process, share_of
from gmn_opt.predict.through import common_ends
from tests.predict.population import INPUTS, population


@pytest.fixture(scope="module")
def fitted() -> Predictor:
    """A process alone that knows the scale of weights."""
    models, targets = population(96)
    made = fit_predictor(models, targets, example_inputs=INPUTS, kind="process")
    assert isinstance(made, Predictor)
    return made


def test_it_learns(fitted: Predictor) -> None:
    models, targets = population(40, seed=1)
    assert fitted.score(models, targets)["r2"] > 0.9


def test_saved_and_loaded(fitted: Predictor, tmp_path: Path) -> None:
    models, _ = population(12, seed=2)
    fitted.save(tmp_path / "p.safetensors")
    back = Predictor.load(tmp_path / "p.safetensors", example_inputs=INPUTS)
    assert torch.equal(back.predict(models), fitted.predict(models))
    assert fitted.embed(models).shape == back.embed(models).shape
    assert len(fitted.embed(models)) == 12


def test_files_that_do_not_say_how_alike_are_gaussian(fitted: Predictor) -> None:
    assert fitted.process is not None
    config = {k: v for k, v in fitted.process.config.items() if k != "alike"}
    before = Process(config).double()
    before.load_state_dict(fitted.process.state_dict())
    z = torch.randn(3, before.inputs.shape[1], dtype=torch.float64)
    wanted = (-torch.cdist(z, before.inputs).square() / 2).exp() @ before.weights
    torch.testing.assert_close(before.answer(z), wanted)
    with pytest.raises(ValueError, match="written by a later version"):
        Process({**config, "alike": "cosine"})


def test_permutations(fitted: Predictor) -> None:
    (network,) = as_networks(population(1, seed=3)[0], INPUTS)
    tensors = {n: t.double() for n, t in network.tensors.items()}
    graph = network.graph
    other = graph.permute(tensors, graph.random_symmetry(torch.Generator().manual_seed(0)))
    assert any(not torch.equal(tensors[n], other[n]) for n in tensors)
    a, b = (fitted.predict([(graph, t)]) for t in (tensors, other))
    assert float((a - b).abs()) < 1e-9


def test_what_is_said_of_a_network_when_the_others_alone_are_known() -> None:
    models, targets = population(30)
    stacks = stacked(as_networks(models, INPUTS))
    made, alone = Process.fitted(stacks, targets.unsqueeze(1), common_ends(stacks), 0)
    x = torch.empty_like(made.inputs)
    for stack in stacks:
        x[stack.places] = made.read(stack)
    # the kernel that the weights solve, without one network
    order = [int((x - row).square().sum(1).argmin()) for row in made.inputs]
    assert sorted(order) == list(range(30))
    apart = 5**0.5 * torch.cdist(x, x)
    kernel = (1 + apart + apart**2 / 3) * (-apart).exp()
    y = targets.double()
    weights = torch.empty_like(y)
    weights[order] = made.weights[:, 0]
    # (kernel + ratio) weights = y
    ratio = ((y - kernel @ weights) / weights).mean()
    rest = [i for i in range(30) if i != 7]
    solved = torch.linalg.solve(kernel[rest][:, rest] + ratio * torch.eye(29).double(), y[rest])
    torch.testing.assert_close(alone[7, 0], kernel[7, rest] @ solved, rtol=1e-6, atol=1e-6)


def test_shares() -> None:
    true = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    wrong = true + torch.randn(50, 1, generator=torch.Generator().manual_seed(1))
    nothing = torch.full_like(true, math.nan)
    assert share_of(wrong, true, true) == 1
    assert share_of(true, wrong, true) == 0
    assert share_of(true + 1, true - 1, true) == pytest.approx(0.5)
    assert share_of(nothing, true, true) == 0.5


def test_beside_members() -> None:
    models, targets = population(48)
    recipe = Recipe(members=2, epochs=1)
    made = fit_predictor(models, targets, example_inputs=INPUTS, recipe=recipe)
    assert isinstance(made, Predictor)
    # members of one epoch know next to nothing
    assert made.share > 0.8
    both = made.predict(models)
    share, made.share = made.share, 0.0
    members = made.predict(models)
    made.share = 1.0
    torch.testing.assert_close(both, (1 - share) * members + share * made.predict(models).float())


def test_refusals(fitted: Predictor) -> None:
    models, targets = population(24)
    with pytest.raises(ValueError, match="kind='process' predicts numbers"):
        fit_predictor(
            models, (targets > 0).long(), example_inputs=INPUTS, kind="process",
            loss="cross_entropy",
        )  # fmt: skip
    with pytest.raises(ValueError, match="kind='graph' can be calibrated"):
        calibrate(fitted, models, models, targets)
