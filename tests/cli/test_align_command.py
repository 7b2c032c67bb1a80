"""``gmn-opt align``: files in, files and a picture out, and clear refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from gmn_opt.cli import app
from gmn_opt.graph import trace

NET = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(9, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the model, a network, a permuted copy of it, and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "align_net", raising=False)
    (tmp_path / "align_net.py").write_text(NET)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(9, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    ).eval()
    graph = trace(model, torch.randn(2, 1, 3, 3))
    state = dict(model.state_dict())
    save_file(state, tmp_path / "a.safetensors")
    torch.save(graph.permute(state, graph.random_symmetry()), tmp_path / "b.pt")
    data = {"inputs": torch.randn(40, 1, 3, 3), "targets": torch.randint(3, (40,))}
    save_file(data, tmp_path / "data.safetensors")
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(
        app, ["align", *words, "--model", "align_net:net", "--input", "1x1x3x3"]
    )


def test_a_copy_comes_back(folder: Path) -> None:
    done = run(
        "a.safetensors", "b.pt", "-o", "out.safetensors", "--merge", "mean.pt",
        "--data", "data.safetensors", "--plot", "path.png",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "aligned 0" in done.output
    assert "barrier as they are" in done.output
    found, a = load_file(folder / "out.safetensors"), load_file(folder / "a.safetensors")
    assert all(torch.equal(found[n], a[n]) for n in a)
    mean = torch.load(folder / "mean.pt")
    torch.testing.assert_close(mean["1.weight"], a["1.weight"])
    assert not torch.equal(mean["2.running_mean"], a["2.running_mean"])
    assert (folder / "path.png").stat().st_size > 1000


def test_by_activations(folder: Path) -> None:
    done = run(
        "a.safetensors", "b.pt", "--method", "activations", "--data", "data.safetensors",
        "-o", "out.pt",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found, a = torch.load(folder / "out.pt"), load_file(folder / "a.safetensors")
    assert all(torch.equal(found[n], a[n]) for n in a)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.safetensors", "none.pt"), "no file none.pt"),
        (("a.safetensors", "align_net.py"), "cannot read align_net.py"),
        (("a.safetensors", "data.safetensors"), "other has no '1.weight'"),
        (("a.safetensors", "b.pt", "--plot", "x.png"), "need --data"),
        (("a.safetensors", "b.pt", "--plot", "x.txt", "--data", "mnist"), "must end in"),
        (("a.safetensors", "b.pt", "--method", "magic"), "no method 'magic'"),
        (("a.safetensors", "b.pt", "--data", "nothing"), "no data 'nothing'"),
        (("a.safetensors", "b.pt", "--data", "mnist"), "does not fit --input"),
        (("a.safetensors", "b.pt", "--data", "b.pt"), "it needs 'inputs' and 'targets'"),
        (("a.safetensors", "b.pt", "-o", "no/where.pt"), "is not a folder"),
    ],
)
def test_refusals(folder: Path, words: tuple[str, ...], message: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
