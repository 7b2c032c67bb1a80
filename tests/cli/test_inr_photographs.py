"""`gmn-opt inr` on photographs: tiles, editors for them, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gmn_opt.cli.app import app
from gmn_opt.data import load_photograph
from gmn_opt.inr import load_editor, load_tiled, save_editor
from gmn_opt.inr.photo_training import new_photo_editor

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a photograph, its network, and editors."""
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(load_photograph()[:40, :72].numpy()).save(folder / "cat.png")
    grain = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    frames = [Image.fromarray(grain), Image.fromarray(255 - grain)]
    frames[0].save(folder / "two.webp", save_all=True, append_images=frames[1:])
    for name in ("photo-warm", "photo-odd"):
        save_editor(folder / f"{name}.safetensors", new_photo_editor(name))
    args = ["inr", "fit", str(folder / "cat.png"), "-o", str(folder / "cat.safetensors")]
    result = CliRunner().invoke(app, [*args, "--steps", "60", "--width", "16"])
    assert result.exit_code == 0, result.output
    assert "2x1 tiles, each a SIREN 2-16-16-3" in result.stdout
    assert "72x40 pixels: about" in result.stderr
    return folder


@pytest.fixture
def run(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for path in things.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return lambda *args: CliRunner().invoke(app, ["inr", *args])


def picture(name: str) -> Any:
    with Image.open(name) as file:
        return np.array(file).astype(int)


def test_from_photograph_to_picture(run: Run) -> None:
    about = load_tiled("cat.safetensors").about
    assert about["source"] == "cat.png"
    assert about["fit"]["steps"] == 60
    assert not Path("cat.safetensors.part").exists()
    assert run("render", "cat.safetensors", "-o", "cat2.png").exit_code == 0
    wanted = picture("cat.png")
    assert picture("cat2.png").shape == wanted.shape
    assert abs(picture("cat2.png") - wanted).mean() < 12
    args = ("--editor", "photo-odd.safetensors", "-o", "odd.safetensors", "--strength", "0.5")
    result = run("edit", "cat.safetensors", *args)
    assert result.exit_code == 0, result.output
    assert "odd.safetensors: photo-odd, strength 0.5, by photo-odd.safetensors" in result.stdout
    edits = load_tiled("odd.safetensors").about["edits"]
    assert edits == [{"edit": "photo-odd", "strength": 0.5}]
    result = run("render", "odd.safetensors", "-o", "odd.png", "--size", "144")
    assert result.stdout.strip() == "odd.png: 144x80"


def test_from_photograph_to_edited_picture(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one command; what is wrong with the edit is said before the fit."""
    tiled = load_tiled("cat.safetensors")
    fits: list[str] = []

    def fit(*args: Any) -> Any:
        fits.append(args[2])
        return tiled

    monkeypatch.setattr("gmn_opt.cli.inr.tiled.fit_photograph", fit)
    args = ("edit", "cat.png", "--editor", "photo-warm.safetensors", "--edit")
    assert "not for 'photo-neon'" in run(*args, "neon", "-o", "x.png").stderr
    assert not fits
    result = run(*args, "warm", "-o", "warm.png")
    assert result.exit_code == 0, result.output
    assert "warm.png: photo-warm, strength 1, by photo-warm.safetensors" in result.stdout
    assert picture("warm.png").shape == picture("cat.png").shape
    assert run(*args, "warm", "-o", "warm.safetensors").exit_code == 0
    assert load_tiled("warm.safetensors").about["edits"][0]["edit"] == "photo-warm"
    assert fits == ["cat.png", "cat.png"]
    assert "there is no file no.png" in run("edit", "no.png", "-o", "y.png").stderr


def test_grids_from_photograph_to_edited_picture(run: Run) -> None:
    args = ("--family", "grid", "--steps", "60")
    result = run("fit", "cat.png", "-o", "grid.safetensors", *args)
    assert result.exit_code == 0, result.output
    assert "each a pyramid of grids 7x7, 14x14, 28x28 with a decoder 12-32-3" in result.stdout
    assert load_tiled("grid.safetensors").config.family == "feature_pyramid"
    assert run("render", "grid.safetensors", "-o", "grid.png").exit_code == 0
    assert abs(picture("grid.png") - picture("cat.png")).mean() < 6
    result = run("edit", "grid.safetensors", "--edit", "warm", "-o", "warm.png")
    assert result.exit_code == 0, result.output
    assert "on family feature_pyramid plain steps do what its metanet learned" in result.stderr
    before, after = (picture(n).mean((0, 1)) for n in ("grid.png", "warm.png"))
    assert after[0] - after[2] > before[0] - before[2] + 10
    assert (
        "no family 'nerf'"
        in run("fit", "cat.png", "-o", "y.safetensors", "--family", "nerf").stderr
    )
    small = run("fit", "cat.png", "-o", "small.safetensors", "--size", "16", *args)
    assert "small.safetensors: pyramid of grids" in small.stdout


def test_a_gallery_of_ones_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = load_tiled("cat.safetensors")
    monkeypatch.setattr("gmn_opt.inr.fit_tiles", lambda _, fit: tiled)
    args = ("--editor", "photo-warm.safetensors", "-o", "g.png", "--size", "72")
    result = run("gallery", "cat.png", *args)
    assert result.exit_code == 0, result.output
    assert "g.png: 1 photograph, warm by photo-warm.safetensors" in result.stdout
    assert picture("g.png").std() > 20


def test_an_editor_for_an_edit_of_ones_own(run: Run) -> None:
    Path("own_edits.py").write_text("def darkened(image):\n    return image // 2\n")
    args = ("--rounds-of", "photo-warm.safetensors", "--seconds", "1", "-o", "mine.safetensors")
    result = run("train-editor", "own_edits:darkened", "chelsea", *args)
    assert result.exit_code == 0, result.output
    assert "mine.safetensors: photo-darkened" in result.stdout
    assert load_editor(Path("mine.safetensors")).config.edit == "photo-darkened"
    result = run("train-editor", "own_edits:none", "chelsea", "-o", "y.safetensors")
    assert "There is no function own_edits:none" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "cat.png", "-o", "cat.safetensors"], "is there already; choose another name"),
        (["edit", "cat.safetensors", "-o", "cat.safetensors"], "pass --force to write over"),
        (["render", "cat.safetensors", "-o", "cat.png"], "is there already"),
        (["gallery", "-o", "cat.png"], "is there already"),
        (["edit", "cat.safetensors", "-o", "x.safetensors", "--strength", "50"], "from 0 to 1"),
        (["edit", "cat.safetensors", "-o", "x.safetensors"], "say which edit with --edit"),
        (
            ["edit", "cat.safetensors", "-o", "x.safetensors", "--edit", "dilate"],
            "dilate is for small images: fit with --size 32 --grey",
        ),
        (
            ["edit", "cat.safetensors", "-o", "x.safetensors", "--edit", "melt"],
            "no editor for 'melt' on photographs",
        ),
        (["render", "cat.safetensors", "-o", "x.webp", "--size", "16384"], "WEBP holds sides up"),
        (["fit", "cat.png", "-o", "x.safetensors", "--psnr", "nan"], "a number such as 40"),
    ],
)
def test_refusals(run: Run, args: list[str], message: str) -> None:
    before = sorted(Path().iterdir())
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert sorted(Path().iterdir()) == before


def test_the_first_frame_is_taken_saying_so(run: Run) -> None:
    result = run("fit", "two.webp", "-o", "x.safetensors", "--size", "16", "--psnr", "10")
    assert result.exit_code == 0, result.output
    assert "the first of 2 frames taken" in result.stderr


def test_a_wrong_path_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom gmn_opt.cli.app import app\n"
        "try:\n app(['inr', 'fit', 'none.png', '-o', 'x.safetensors'])\n"
        "finally:\n print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert "there is no file none.png" in result.stderr
    assert result.stdout.strip() == "False"
