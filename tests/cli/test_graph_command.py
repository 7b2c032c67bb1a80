from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gmn_opt.cli import app
from gmn_opt.graph import ParameterGraph

NETS = '''
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())

class Words(nn.Module):
    def __init__(self, vocabulary=11):
        super().__init__()
        self.table, self.out = nn.Embedding(vocabulary, 6), nn.Linear(6 + 3, 2)

    def forward(self, tokens, scale):
        return self.out(torch.cat([self.table(tokens).mean(1), scale], 1))

class Wrong(Net):
    """Refuses to be copied, so that nothing can be checked."""
    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")

class makers:
    net = Net()

def conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))

def number():
    return 7

def broken():
    raise OSError("no such checkpoint")

def norm():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))

def attention():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

def needs(x):
    return Net()

plain = "text"
'''
Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `gmn-opt graph` in a folder with a module `nets_of_mine`."""
    (tmp_path / "nets_of_mine.py").write_text(NETS)
    (tmp_path / "bad_import.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "bad_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    yield lambda *args: CliRunner().invoke(app, ["graph", *args])
    for name in ("nets_of_mine", "bad_import", "bad_syntax"):
        sys.modules.pop(name, None)


def test_a_table_a_check_a_picture_and_a_file(run: Run, tmp_path: Path) -> None:
    result = run("nets_of_mine:Net", "--input", "5x4", "--draw", "net.png", "--json", "net.json")

    assert result.exit_code == 0, result.output
    for text in ("a.weight   linear  a6 4", "1 spaces", "nothing but rounding", "95.5%", "net.png"):
        assert text in result.stdout
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    graph = ParameterGraph.from_json((tmp_path / "net.json").read_text("utf-8"))
    assert list(graph.shapes) == ["a.weight", "a.bias", "b.weight", "b.bias"]


@pytest.mark.parametrize("where", ["nets_of_mine:Net", "nets_of_mine:makers.net"])
def test_classes_and_models_without_a_check(run: Run, where: str) -> None:
    result = run(where, "--input", "4", "--no-verify")

    assert result.exit_code == 0, result.output
    assert "Note: not checked numerically" in result.stdout
    assert "nothing but rounding" not in result.stdout


def test_several_inputs_by_name_and_kind(run: Run) -> None:
    options = ["--input", "2x5", "--dtype", "long:11", "--input", "scale=2x3", "--dtype", "float"]
    result = run("nets_of_mine:Words", *options)

    assert result.exit_code == 0, result.output
    assert "table.weight  embedding" in result.stdout


def test_large_models_need_no_memory(run: Run) -> None:
    result = run("nets_of_mine:conv", "--input", "1x3x8x8", "--meta", "--draw", "n.svg", "--level",
                 "layers")  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "0.weight   conv" in result.stdout
    assert Path("n.svg").is_file()


def test_one_image_for_a_model_in_training_mode(run: Run) -> None:
    """A batch norm over one pixel refuses to train."""
    result = run("nets_of_mine.py:norm", "--input", "1x3x3x3")

    assert result.exit_code == 0, result.output
    assert "evaluation (it came in training mode)" in result.stdout
    assert "1 spaces" in result.stdout


def test_queries_keys_and_values_by_name(run: Run) -> None:
    result = run("nets_of_mine:attention", "--input", "2x3x8", "--no-verify")

    assert result.exit_code == 0, result.output
    for name in ("in_proj[q]", "in_proj[k]", "in_proj[v]"):
        assert name in result.stdout
    assert "[0:8]" not in result.stdout


def test_a_reader_that_has_enough_is_no_error(run: Run, tmp_path: Path) -> None:
    command = f"{sys.executable} -m gmn_opt graph nets_of_mine.py:Net --input 5x4 --no-verify"
    piped = f"{command} | true; echo status ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "status 0", done
    assert not done.stderr


def test_what_cannot_be_checked_is_said(run: Run) -> None:
    result = run("nets_of_mine:Wrong", "--input", "1x4")

    assert result.exit_code == 0, result.output
    assert "not possible with this model: RuntimeError: one of a kind" in result.stdout


def test_a_wrong_graph_is_exit_code_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ParameterGraph, "verify", lambda *_, **__: 0.5)
    result = run("nets_of_mine:Net", "--input", "1x4")

    assert result.exit_code == 1
    assert "outputs change by 5.0e-01" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nets_of_mine"], "not MODULE:FACTORY: 'nets_of_mine'"),
        (["no_such_home:Net"], "no module 'no_such_home'"),
        (["no_such_home.deep:Net"], "no module 'no_such_home.deep'"),
        (["bad_import:Net"], "importing bad_import failed: No module named 'nowhere_to_be_found'"),
        (["bad_syntax:Net"], "importing bad_syntax failed: SyntaxError"),
        (["nets_of_mine:Nut"], "nets_of_mine has no 'Nut'"),
        (["nets_of_mine:plain"], "is a str, neither a torch.nn.Module nor something that makes"),
        (["nets_of_mine:number"], "nets_of_mine:number gave an int, not a torch.nn.Module"),
        (["nets_of_mine:broken"], "OSError: no such checkpoint"),
        (["nets_of_mine:needs"], "could not be called without arguments"),
        (["nets_of_mine:Net", "--input", "1,4"], "not a shape: '1,4'"),
        (["nets_of_mine:Net", "--input", "x y=1x4"], "not a shape: 'x y=1x4'"),
        (["nets_of_mine:Net", "--input", "1x5"], "in module 'a' (Linear): RuntimeError"),
        (["nets_of_mine:Net"], "Give its inputs with --input."),
        (["nets_of_mine:Net", "--input", "4", "--dtype", "int"], "no dtype 'int'"),
        (["nets_of_mine:Net", "--input", "4", "--dtype", "long:0"], "no dtype 'long:0'"),
        (["nets_of_mine:Net", "--input", "4", *["--dtype", "half"] * 2], "2 times --dtype for 1"),
        (["nets_of_mine:Net", "--input", "4", "--draw", "net.bmp"], "must end in .png, .svg, .pdf"),
        (["nets_of_mine:Net", "--input", "4", "--draw", "no/net.png"], "no is not a folder"),
        (["nets_of_mine:Net", "--input", "4", "--json", "."], "cannot write ."),
        (["nets_of_mine:Net", "--input", "4", "--level", "all"], "no level 'all'"),
    ],
)
def test_refusals_are_one_message(run: Run, args: list[str], message: str) -> None:
    result = run(*args)

    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_as_a_user_would_start_it(run: Run, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "gmn_opt", "graph", "nets_of_mine:conv",
         "--input", "1x3x8x8", "--draw", "net.pdf"],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "", "COLUMNS": "80", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "coverage" in done.stdout
    assert (tmp_path / "net.pdf").is_file()
