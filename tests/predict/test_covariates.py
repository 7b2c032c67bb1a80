"""What is known of networks beside their weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.predict import NetworkError, Predictor, Recipe, calibrate, fit_predictor
from tests.predict.population import INPUTS, population

SHORT = Recipe(members=1, epochs=2)


def known(count: int, seed: int = 0) -> tuple[list[nn.Module], Tensor, Tensor]:
    """Networks, covariates, and a target of which weights tell nothing."""
    models, _ = population(count, seed=seed)
    covariates = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return models, covariates, covariates[:, 0] - covariates[:, 1].square()


@pytest.mark.parametrize("kind", ["graph", "process", "trees", "forest"])
def test_they_tell_what_weights_do_not(kind: str) -> None:
    models, covariates, targets = known(96)
    others, asked, wanted = known(40, seed=1)
    recipe = Recipe(members=1, epochs=8)
    made = fit_predictor(
        models, targets, example_inputs=INPUTS, covariates=covariates, kind=kind, recipe=recipe
    )
    blind = fit_predictor(models, targets, example_inputs=INPUTS, kind=kind, recipe=recipe)
    assert made.score(others, wanted, covariates=asked)["r2"] > 0.6
    assert blind.score(others, wanted)["r2"] < 0.2


@pytest.mark.parametrize("kind", ["graph", "process"])
def test_each_belongs_to_its_network(kind: str, tmp_path: Path) -> None:
    models, covariates, targets = known(48)
    made = fit_predictor(
        models, targets, example_inputs=INPUTS, covariates=covariates, kind=kind, recipe=SHORT
    )
    assert isinstance(made, Predictor)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    before = made.predict(models, covariates=covariates)
    moved = made.predict([models[i] for i in order.tolist()], covariates=covariates[order])
    torch.testing.assert_close(moved, before[order], rtol=1e-4, atol=1e-5)
    assert len(made.embed(models, covariates=covariates)) == 48
    made.save(tmp_path / "p.safetensors")
    back = Predictor.load(tmp_path / "p.safetensors", example_inputs=INPUTS)
    assert torch.equal(back.predict(models, covariates=covariates), before)


@pytest.mark.parametrize("kind", ["graph", "process", "trees"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_in_any_dtype(kind: str, dtype: torch.dtype) -> None:
    models, _, targets = known(24)
    covariates = torch.arange(24).unsqueeze(1)
    found = []
    for x in (covariates.float(), covariates.to(dtype)):
        made = fit_predictor(
            models, targets, example_inputs=INPUTS, covariates=x, kind=kind, recipe=SHORT
        )
        found.append(made.predict(models, covariates=x))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        (torch.zeros(23, 2), "one row for each of 24 networks; received torch.float32 [23, 2]"),
        (torch.zeros(24), "received torch.float32 [24]"),
        (torch.zeros(24, 2).index_fill(0, torch.tensor(5), torch.nan), "for networks [5]"),
        (torch.full((24, 1), 1e39, dtype=torch.float64), "infinite in float32"),
        (torch.zeros(24, 2, dtype=torch.complex64), "real numbers"),
    ],
)
def test_bad_ones_are_refused(covariates: Tensor, message: str) -> None:
    models, targets = population(24)
    with pytest.raises(ValueError, match=re.escape(message)):
        fit_predictor(models, targets, example_inputs=INPUTS, covariates=covariates)


@pytest.mark.parametrize("kind", ["process", "trees"])
def test_as_many_as_in_training(kind: str) -> None:
    models, covariates, targets = known(24)
    made = fit_predictor(models, targets, example_inputs=INPUTS, covariates=covariates, kind=kind)
    with pytest.raises(ValueError, match="trained with 3 covariates per network, received 0"):
        made.predict(models)
    with pytest.raises(ValueError, match="received 2"):
        made.predict(models, covariates=covariates[:, :2])
    blind = fit_predictor(models, targets, example_inputs=INPUTS, kind=kind)
    with pytest.raises(ValueError, match="trained with 0 covariates"):
        blind.predict(models, covariates=covariates)


@pytest.mark.parametrize("kind", ["statnn", "deepsets", "dmc"])
def test_not_all_kinds_read_them(kind: str) -> None:
    models, covariates, targets = known(24)
    with pytest.raises(ValueError, match="reads no covariates; graph, process, trees, forest do"):
        fit_predictor(models, targets, example_inputs=INPUTS, covariates=covariates, kind=kind)


class Own(nn.Module):
    """A module without a length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)


@pytest.mark.parametrize("kind", ["process", "trees"])
def test_a_single_network_is_refused(kind: str) -> None:
    models, targets = population(24)
    made = fit_predictor(models, targets, example_inputs=INPUTS, kind=kind)
    with pytest.raises(NetworkError, match="at least one network is needed, received a single one"):
        made.predict(Own())  # type: ignore[arg-type]


def test_intervals_need_weights_alone() -> None:
    models, covariates, targets = known(48)
    made = fit_predictor(
        models, targets, example_inputs=INPUTS, covariates=covariates, recipe=SHORT
    )
    assert isinstance(made, Predictor)
    with pytest.raises(ValueError, match="reads 3 covariates"):
        calibrate(made, models, models, targets)
