"""`gmn-opt meta-train` on tasks of a user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gmn_opt.cli import app
from gmn_opt.cli.meta_train.example import Digits
from gmn_opt.cli.meta_train.given import GivenTasks
from gmn_opt.optim import load_rule

OWN = """
import torch
from gmn_opt.meta import Task
from gmn_opt.cli.meta_train.example import Digits

class Line(Task):
    name = "line"
    def build(self):
        return torch.nn.Linear(2, 1)
    def example_inputs(self):
        return (torch.zeros(3, 2),)
    def batch(self, split, count, generator):
        x = torch.randn(count, 8, 2, generator=generator)
        return {"x": x, "y": x.sum(-1, keepdim=True)}
    def judge(self, output, batch):
        return (output - batch["y"]).square().mean()

def two():
    return [Digits(8), Line()]

def nothing():
    return []

def wrong():
    return 3

one = Line()
"""


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["meta-train", *map(str, arguments)])


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own_tasks.py"
    path.write_text(OWN, "utf-8")
    return str(path)


def test_a_run_stopped_and_resumed_is_the_whole_run(own: str, tmp_path: Path) -> None:
    common = ["--preset", "smoke", "--device", "cpu", "--meta-steps", "2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = invoke(f"{own}:two", *common, "--out", whole)
    assert done.exit_code == 0, done.output
    record = json.loads((whole / "result.json").read_text("utf-8"))
    assert record["complete"]
    assert record["config"]["meta_steps"] == 2
    assert set(record["validation"]["tasks"]) == {"digits-8", "line"}
    assert record["environment"]["packages"]["torch"]
    assert load_rule(whole / "weights.safetensors").config.hidden == 8

    stopped = invoke(f"{own}:two", *common, "--out", parts, "--minutes", "0")
    assert "go on with --resume" in stopped.output
    assert invoke(f"{own}:two", *common, "--out", parts, "--resume").exit_code == 0
    for name in ("weights.safetensors", "best.safetensors"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", "gave an int, not a gmn_opt.meta.Task, a list of them"),
        ("nothing", "Tasks need names of their own, at least one; received []"),
        ("nowhere", "has no 'nowhere'"),
    ],
)
def test_what_is_refused(own: str, tmp_path: Path, name: str, said: str) -> None:
    done = invoke(f"{own}:{name}", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_tasks_are_restored_by_name() -> None:
    tasks = GivenTasks([Digits(8), Digits(9)])
    assert tasks.restore(tasks.restore({"task": "digits-9"}).spec()).name == "digits-9"
    with pytest.raises(ValueError, match="trained on a task 'x'; the factory gives digits-8"):
        tasks.restore({"task": "x"})
    with pytest.raises(ValueError, match="names of their own"):
        GivenTasks([Digits(8), Digits(8)])
