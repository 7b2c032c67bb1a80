"""``gmn-opt predict``: an estimate with an interval, and clear refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from gmn_opt.cli import app
from gmn_opt.predict import Predictor, Recipe, calibrate, fit_predictor
from tests.predict.population import INPUTS, mlp, population

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the model, two sets of weights, a predictor."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "predict_net", raising=False)
    (tmp_path / "predict_net.py").write_text(NET)
    models, targets = population(32)
    made = fit_predictor(models, targets, example_inputs=INPUTS, recipe=Recipe(1, epochs=1))
    assert isinstance(made, Predictor)
    calibrate(made, models, models, targets).save("own.safetensors")
    save_file(dict(mlp(4).state_dict()), "a.safetensors")
    torch.save(mlp(4).state_dict(), "b.pt")
    save_file(dict(mlp(5).state_dict()), "wide.safetensors")
    save_file({"x": torch.zeros(2)}, "other.safetensors")
    broken = mlp(4)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    save_file(dict(broken.state_dict()), "nan.safetensors")
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(
        app,
        ["predict", "predict_net:net", "--input", "2x3", "--predictor", "own.safetensors", *words],
    )


def test_two_files(folder: Path) -> None:
    done = run("--weights", "a.safetensors", "--weights", "b.pt", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found.keys() == {"a.safetensors", "b.pt"}
    assert found["a.safetensors"]["value"] != found["b.pt"]["value"]
    assert all(e["low"] <= e["value"] <= e["high"] for e in found.values())


def test_its_own_weights(folder: Path) -> None:
    done = run("--coverage", "0.8")
    assert done.exit_code == 0, done.output
    assert "its own weights: accuracy" in done.output
    assert "80% interval" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "none.safetensors"), "no file none.safetensors"),
        (("--weights", "other.safetensors"), "is not of this architecture: missing"),
        (("--weights", "wide.safetensors"), "is not of this architecture"),
        (("--weights", "nan.safetensors"), "values that are NaN or infinite"),
        (("--coverage", "2"), "Coverage must be above 0"),
        (("--predictor", "none"), "No weights named 'none'"),
        (("--input", "x=2x3"), "inputs by name are not possible"),
        (("--input", "2x9", "--input", "1"), "cannot be traced"),
    ],
)
def test_refusals(folder: Path, words: tuple[str, ...], message: str) -> None:
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert message in done.output.replace("\n", " ")
