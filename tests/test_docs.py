"""README and docs: every Python block runs, page by page, and does what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from torch.nn import functional as F

from gmn_opt.data import load_bundled
from gmn_opt.graph.tracing.rules import RULES
from gmn_opt.inr import psnr
from gmn_opt.inr.edits import EDITS
from gmn_opt.predict import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
Names = dict[str, Any]


def readme(names: Names, printed: str) -> None:
    """The loop trains."""
    losses = [float(line.split()[-1]) for line in printed.splitlines()]
    assert losses[0] == pytest.approx(2.3, abs=0.3)
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        loss = F.cross_entropy(names["model"](names["images"]), names["labels"]).item()
    assert loss < 0.5 * losses[0]


def compatibility(names: Names, printed: str) -> None:
    """The kept file serves."""
    assert "default" in printed
    assert Path("kept.safetensors").stat().st_size > 1000


def align(names: Names, printed: str) -> None:
    """The loss along the path is printed."""
    assert "barrier" in printed


def comparison(names: Names, printed: str) -> None:
    """The factory gives what `gmn-opt bench` takes."""
    model, loss, batches = names["problem"]()
    value = loss(model, batches[0])
    value.backward()
    assert value.dim() == 0
    assert all(p.grad is not None for p in model.parameters())


def generate(names: Names, printed: str) -> None:
    """Digits are drawn, and the audit is printed."""
    assert names["images"].shape == (4, 56, 56)
    assert names["images"].float().std() > 30
    assert "copies 0 %" in printed


def inr(names: Names, printed: str) -> None:
    """The networks show their images."""
    images = load_bundled("mnist").test_images[: len(names["pixels"])]
    wanted = images.float().unsqueeze(-1) / 127.5 - 1
    assert float(psnr(names["pixels"], wanted).min()) > 39


def photographs(names: Names, printed: str) -> None:
    """A photograph is drawn larger and edited, and an edit of one's own has a name."""
    assert names["larger"].shape == names["brighter"].shape == (144, 144, 3)
    assert names["brighter"].mean() > names["larger"].mean()
    change = (names["warm"].render() - names["tiled"].render()).mean((0, 1))
    assert change[0] > 0 > change[2]
    assert float(psnr(names["grids"].render(), names["tiled"].render())) > 20


def meta_training(names: Names, printed: str) -> None:
    """A line per outer step, and weights."""
    assert len(printed.splitlines()) == 20
    assert Path("sine.safetensors").stat().st_size > 1000


def metanet(names: Names, printed: str) -> None:
    """Sites are named."""
    assert "'0'" in printed


def optimizer(names: Names, printed: str) -> None:
    """The graph is shown, and a state was saved."""
    assert "space" in printed
    assert Path("run.pt").stat().st_size > 1000


def parameter_graphs(names: Names, printed: str) -> None:
    """A picture, and what was found."""
    assert Path("network.png").stat().st_size > 1000
    assert "0.weight" in printed
    assert "of the parameters lie along a space" in printed


def predict(names: Names, printed: str) -> None:
    """A table, an interval, and what can be learnt from 51 networks."""
    scores = dict(re.findall(r"^(\w+) +R² +(-?[\d.]+)", printed, re.MULTILINE))
    assert scores.keys() == {"graph", "process", "trees", "forest", "statnn"}
    assert min(float(scores["graph"]), float(scores["process"])) > 0.3
    assert "80% interval" in printed
    assert float(re.findall(r"'r2': (-?[\d.]+)", printed)[-1]) > 0.3
    assert Path("zoo/dataset.json").exists()


#: In place of the defaults, which take three times as long for these networks.
SHORT_RECIPE = partial(Recipe, members=2, epochs=20)
#: What torchrun would say to a single process.
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
#: What is checked of a page, and how many blocks it has.
CHECKS: dict[str, tuple[int, Callable[[Names, str], None]]] = {
    "README.md": (1, readme),
    "align.md": (8, align),
    "comparison.md": (1, comparison),
    "compatibility.md": (1, compatibility),
    "generate.md": (5, generate),
    "index.md": (1, readme),
    "inr.md": (1, inr),
    "meta_training.md": (1, meta_training),
    "metanet.md": (8, metanet),
    "optimizer.md": (10, optimizer),
    "parameter_graphs.md": (10, parameter_graphs),
    "photographs.md": (4, photographs),
    "predict.md": (7, predict),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_on_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    document.namespace["__name__"] = "docs"
    blocks = list(document.examples())
    count, check = CHECKS.get(page.name, (0, None))
    assert len(blocks) == count == page.read_text("utf-8").count("```python\n")
    monkeypatch.chdir(tmp_path)
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    known = dict(RULES)
    monkeypatch.setattr("gmn_opt.inr.edits.EDITS", EDITS.copy())
    monkeypatch.setattr("gmn_opt.predict.fitting.Recipe", SHORT_RECIPE)
    try:
        for block in blocks:
            block.evaluate()
    finally:
        for name in RULES.keys() - known.keys():
            del RULES[name]
    if check is not None:
        check(document.namespace, capsys.readouterr().out)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


def test_tests_that_the_page_on_tests_names_exist() -> None:
    text = (ROOT / "docs/optimizer_tests.md").read_text("utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests/optim" / file).read_text("utf-8"), name


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_readme_says_what_make_does(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    shown = re.findall(r"^```sh\n(.*?)^```$", PAGES[0].read_text("utf-8"), re.M | re.DOTALL)
    assert recipe is not None
    assert recipe.group(1).strip() in [block.strip() for block in shown]
