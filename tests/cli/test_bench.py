"""`gmn-opt bench`: from a user's factory to a table."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gmn_opt.cli import app
from gmn_opt.cli.bench.command import bench

FACTORIES = """
import torch
from torch import nn
from torch.nn import functional as F

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x, *, scale):
        return scale * self.net(x)

def mse(model, batch):
    x, y = batch
    return F.mse_loss(model(x, scale=torch.tensor(0.5)), y)

def data():
    x = torch.randn(4, 16, 3)
    return [(a, a.sum(1, keepdim=True)) for a in x]

def listed():
    return Scaled(), mse, data()

def tested():
    return Scaled(), mse, data(), data()

def called():
    return Scaled(), mse, lambda: data()[0]

def parts():
    model = Scaled()
    return model, lambda m, b: F.mse_loss(m.net(b[0]), b[1]), data()

def two():
    return Scaled(), mse

def vector():
    return Scaled(), lambda m, b: b[0], data()

def no_model():
    return 3, mse, data()

def no_loss():
    return Scaled(), 3, data()

def no_batches():
    return Scaled(), mse, 3

def empty():
    return Scaled(), mse, []

def needs(x):
    return x

model = Scaled()
number = 7
"""
Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command in a folder with a file of factories."""
    (tmp_path / "mine.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["bench", *arguments, "--steps", "6"])

    yield call
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("factory", ["listed", "tested", "called", "parts"])
def test_all_kinds_of_factories(run: Run, factory: str) -> None:
    done = run(f"mine.py:{factory}", "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    rates: dict[str, list[float | None]] = {}
    for row in record["runs"]:
        rates.setdefault(row["optimizer"], []).append(row["rate"])
    assert rates["gmn"] == rates["gmn_total_steps"] == [None]
    assert rates["muon_cosine"] == [0.005, 0.02, 0.05]
    assert len(rates["adamw"]) == len(rates["adamw_cosine"]) == 4
    for row in record["runs"]:
        assert row["train_loss"] > 0
        assert (row["test_loss"] is not None) == (factory == "tested")
        assert not row["warnings"]  # the model was found, its named arguments included


def test_the_loss_is_that_of_a_plain_loop(run: Run) -> None:
    done = run("mine:listed", "--optimizer", "adamw_default", "--json", "--judged", "4")
    (row,) = json.loads(done.stdout)["runs"]
    code = FACTORIES + (
        "torch.manual_seed(0)\n"
        "model, loss, batches = listed()\n"
        "opt = torch.optim.AdamW(model.parameters(), lr=1e-3)\n"
        "for batch in [*batches, *batches][4:] + batches[:2]:\n"
        "    opt.zero_grad(); loss(model, batch).backward(); opt.step()\n"
        "result = sum(float(loss(model, b).detach()) for b in batches) / 4\n"
    )
    names: dict[str, Any] = {}
    exec(code, names)
    assert row["train_loss"] == pytest.approx(names["result"], rel=1e-5)


def test_the_table_and_the_example_of_the_help(run: Run) -> None:
    command = next(c for c in app.registered_commands if c.callback is bench)
    found = re.search(r"gmn-opt (bench \S+ --steps \d+)$", command.epilog or "", re.MULTILINE)
    assert found is not None
    arguments = shlex.split(found[1])
    done = CliRunner().invoke(app, [*arguments[:-1], "8", "--optimizer", "muon_cosine"])
    assert done.exit_code == 0, done.output
    assert "after 8 steps" in done.output
    assert done.output.count("Muon cosine") == 3


def test_the_factory_of_the_docs(run: Run) -> None:
    text = (Path(__file__).parents[2] / "docs/comparison.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    Path("train.py").write_text(code)
    done = run("train.py:problem", "--optimizer", "adamw_default", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["runs"][0]["train_loss"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.py"], "not MODULE:FACTORY: 'mine.py'; an example is gmn_opt.cli.bench.example"),
        (["other.py:f"], "there is no file other.py"),
        (["nowhere:f"], "no module 'nowhere' here or among the installed packages"),
        (["mine.py:nothing"], "mine.py has no 'nothing'"),
        (["mine.py:number"], "mine.py:number is an int, not a function that returns model, loss,"),
        (["mine.py:needs"], "mine.py:needs could not be called without arguments"),
        (
            ["mine.py:two"],
            "must return model, loss, batches, or model, loss, batches, test_batches",
        ),
        (["mine.py:no_model"], "the model is an int, not a torch.nn.Module"),
        (["mine.py:no_loss"], "the loss is an int, not a function of model and batch"),
        (["mine.py:no_batches"], "the batches are an int, which cannot be iterated over"),
        (["mine.py:empty"], "batches are empty"),
        (["mine.py:vector"], "must return a scalar tensor, received shape (16, 3)"),
        (["mine.py:listed", "--optimizer", "adam"], "Unknown optimizer 'adam'; choose among"),
        (["mine.py:listed", "--weights", "none"], "No weights named 'none'"),
    ],
)
def test_refusals(run: Run, arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom gmn_opt.cli import app\n"
        "try: app(['bench', '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
