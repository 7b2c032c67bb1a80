"""`gmn-opt inr`: from an image to a network, an edit, and a picture again; and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from gmn_opt.cli.app import app
from gmn_opt.data import load_bundled, load_photograph
from gmn_opt.inr import (
    EditorConfig,
    FitConfig,
    FourierConfig,
    Siren,
    SirenConfig,
    WeightEditor,
    load_editor,
    read_inr,
    render,
    save_editor,
    save_inr,
)
from gmn_opt.weights import WeightsError

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and editors, some of them unusable."""
    folder = tmp_path_factory.mktemp("things")
    digit = load_bundled("mnist").test_images[0].numpy()
    Image.fromarray(digit).save(folder / "digit.png")
    rows, columns = np.mgrid[0:40, 0:60]
    colour = np.stack([rows * 6, columns * 4, rows + columns], -1).astype(np.uint8)
    Image.fromarray(colour).save(folder / "photo.jpg", quality=95)
    clear = np.dstack([colour, np.full((40, 60), 90, np.uint8)])
    Image.fromarray(clear).save(folder / "clear.png")
    Image.fromarray(digit.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(digit[:1, :1]).save(folder / "dot.png")
    content = (folder / "digit.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "text.png").write_text("no image")
    for name, channels in (("grey", 1), ("colour", 3)):
        torch.manual_seed(0)
        config = EditorConfig("dilate", hidden=8, edge_hidden=4, layers=2)
        editor = WeightEditor(SirenConfig(2, channels), config)
        with torch.no_grad():
            for p in editor.metanet.parameters():
                p.add_(torch.randn_like(p) / 4)
        save_editor(folder / f"{name}.safetensors", editor)
    whole = (folder / "grey.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(whole[:-99])
    return folder


@pytest.fixture
def run(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `gmn-opt inr` in a copy of that folder."""
    shutil.copytree(things, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return lambda *args: CliRunner().invoke(app, ["inr", *args])


def picture(name: str) -> Any:
    """The pixels of an image file."""
    with Image.open(name) as file:
        return np.array(file).astype(int)


def fit(run: Run, image: str = "digit.png", *options: str) -> Any:
    return run("fit", image, "-o", "net.safetensors", "--psnr", "25", "--force", *options)


def test_from_image_to_image(run: Run) -> None:
    result = fit(run)
    assert result.exit_code == 0, result.output
    assert "SIREN 2-32-32-1, 1,185 parameters" in result.stdout
    inr, about = read_inr("net.safetensors")
    assert about["size"] == [28, 28]
    with torch.no_grad():
        shown = render(inr, 28)
    wanted = load_bundled("mnist").test_images[0].float().unsqueeze(-1) / 127.5 - 1
    assert float((shown - wanted).square().mean()) < 4 * 10**-2.5

    for strength in ("0", "1"):
        result = run("edit", "net.safetensors", "--edit", "dilate", "--editor", "grey.safetensors",
                     "--strength", strength, "-o", f"edited{strength}.safetensors")  # fmt: skip
        assert result.exit_code == 0, result.output
    for name in ("net", "edited0", "edited1"):
        result = run("render", f"{name}.safetensors", "-o", f"{name}.png", "--size", "50")
        assert result.exit_code == 0, result.output
    pictures = {n: picture(f"{n}.png") for n in ("net", "edited0", "edited1")}
    assert pictures["net"].shape == (50, 50)
    assert abs(pictures["net"] - pictures["edited0"]).max() <= 1
    assert abs(pictures["net"] - pictures["edited1"]).max() > 10
    assert run("render", "net.safetensors", "-o", "again.png").exit_code == 0
    assert picture("again.png").shape == (28, 28)


def test_a_photo_is_brought_to_size_saying_so(run: Run) -> None:
    result = fit(run, "photo.jpg", "--size", "32")
    assert result.exit_code == 0, result.output
    assert "changed photo.jpg: 60x40 to its middle, 40x40; 40x40 to 32x32" in result.stderr
    assert read_inr("net.safetensors")[0].config == SirenConfig(2, 3)
    result = fit(run, "photo.jpg", "--grey", "--size", "16", "--width", "8")
    assert result.exit_code == 0, result.output
    assert "colour to grey" in result.stderr
    assert read_inr("net.safetensors")[0].config == SirenConfig(2, 1, (8, 8))
    assert run("render", "net.safetensors", "-o", "grey.png").exit_code == 0
    assert picture("grey.png").shape == (16, 16)


def test_the_bundled_photograph_by_its_name(run: Run) -> None:
    result = fit(run, "chelsea", "--psnr", "20", "--size", "32")
    assert result.exit_code == 0, result.output
    assert "changed chelsea: 128x128 to 32x32" in result.stderr
    inr, about = read_inr("net.safetensors")
    assert about["source"] == "chelsea.png"
    wanted = load_photograph().float().view(32, 4, 32, 4, 3).mean((1, 3)) / 127.5 - 1
    with torch.no_grad():
        assert float((render(inr, 32) - wanted).square().mean()) < 4 * 10**-1.9
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("chelsea", "PNG")  # your own file comes first
    assert fit(run, "chelsea").exit_code == 0
    assert read_inr("net.safetensors")[0].config.outputs == 1


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of a few steps."""
    monkeypatch.setattr("gmn_opt.inr.FitConfig", lambda **_: FitConfig(steps=20))


@pytest.mark.usefixtures("brief")
def test_galleries(run: Run) -> None:
    result = run("gallery", "--editor", "grey.safetensors", "--count", "2", "-o", "g.png")
    assert result.exit_code == 0, result.output
    assert "g.png: 2 images, dilate by grey.safetensors, mean squared error" in result.stdout
    assert picture("g.png").std() > 20
    result = run(
        "gallery", "photo.jpg", "--size", "32", "--editor", "colour.safetensors", "-o", "c.png"
    )
    assert result.exit_code == 0, result.output
    assert Path("c.png").is_file()


@pytest.fixture
def shipped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with editors."""
    folder = Path("package")
    folder.mkdir()
    for name in ("grey", "colour"):
        (folder / f"inr-dilate-{name}.safetensors").write_bytes(
            Path(f"{name}.safetensors").read_bytes()
        )
    monkeypatch.setattr("gmn_opt.weights.shipped._FOLDER", folder.absolute())


@pytest.mark.usefixtures("shipped")
class TestShippedEditors:
    @pytest.mark.parametrize(("image", "name"), [("digit.png", "grey"), ("photo.jpg", "colour")])
    def test_the_one_that_fits_and_which(self, run: Run, image: str, name: str) -> None:
        assert fit(run, image, "--size", "28").exit_code == 0
        result = run("edit", "net.safetensors", "--edit", "dilate", "-o", "a.safetensors")
        assert result.exit_code == 0, result.output
        assert f"by inr-dilate-{name}" in result.stdout
        args = ("--editor", f"{name}.safetensors", "-o", "b.safetensors")
        assert run("edit", "net.safetensors", *args).exit_code == 0
        a, b = read_inr("a.safetensors")[0], read_inr("b.safetensors")[0]
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(p, q)
        assert read_inr("a.safetensors")[1]["edits"] == [{"edit": "dilate", "strength": 1.0}]

    @pytest.mark.usefixtures("brief")
    def test_a_gallery_without_any_options(self, run: Run) -> None:
        result = run("gallery", "--count", "2")
        assert result.exit_code == 0, result.output
        assert "2 images, dilate by inr-dilate-grey" in result.stdout
        result = run("gallery", "photo.jpg", "--size", "32", "--force")
        assert result.exit_code == 0, result.output
        assert "1 image, dilate by inr-dilate-colour" in result.stdout
        assert "changed photo.jpg" in result.stderr

    @pytest.mark.usefixtures("brief")
    def test_the_bundled_photograph_where_only_colour_will_do(self, run: Run) -> None:
        result = run("gallery", "--editor", "colour.safetensors", "--count", "1", "-o", "a.png")
        assert result.exit_code == 0, result.output
        Path("package/inr-dilate-grey.safetensors").unlink()
        for args in (["--edit", "dilate"], ["--data", "chelsea"], ["chelsea", "--size", "32"]):
            result = run("gallery", "--count", "1", "-o", "b.png", "--force", *args)
            assert result.exit_code == 0, result.output
            assert "1 image, dilate by inr-dilate-colour" in result.stdout
            assert np.array_equal(picture("a.png"), picture("b.png"))

    def test_none_fits(self, run: Run) -> None:
        assert fit(run).exit_code == 0
        Path("package/inr-dilate-grey.safetensors").unlink()
        for args in (["--edit", "dilate"], ["--edit", "neon"]):
            result = run("edit", "net.safetensors", *args, "-o", "x.safetensors")
            assert result.exit_code == 2
            assert {
                "dilate": "dilate is for colour images; fit with --colour",
                "neon": "no editor for 'neon' on grey images",
            }[args[1]] in result.stderr
            assert not Path("x.safetensors").exists()

    def test_by_name(self, run: Run) -> None:
        assert load_editor("inr-dilate-grey").inr.outputs == 1
        assert load_editor("dilate", channels=3).inr.outputs == 3
        for args, message in (
            (("dilate",), "several editors for 'dilate': inr-dilate-colour, inr-dilate-grey"),
            (("melt",), "no editor for 'melt' in this"),
            (("dilate", 2), "on 2-channel images"),
            (("inr-dilate-grey", 3), "edits networks of 1 channels, this one has 3"),
        ):
            with pytest.raises(WeightsError, match=message):
                load_editor(*args)


def test_an_edit_of_another_size_says_so(run: Run) -> None:
    assert fit(run, "photo.jpg", "--grey", "--size", "30").exit_code == 0
    args = ("--editor", "grey.safetensors", "-o", "x.safetensors")
    result = run("edit", "net.safetensors", *args)
    assert result.exit_code == 0, result.output
    assert "made for networks of 28x28 images, this one is of 30x30" in result.stderr


def test_networks_from_elsewhere(run: Run) -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    save_file(net.state_dict(), "theirs.safetensors")
    result = run("render", "theirs.safetensors", "-o", "theirs.png", "--omega", "10")
    assert result.exit_code == 0, result.output
    assert picture("theirs.png").shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "none.png", "-o", "x.safetensors"], "there is no file none.png"),
        (["fit", "cut.png", "-o", "x.safetensors"], "cut.png is no image, or a damaged one"),
        (["fit", "text.png", "-o", "x.safetensors"], "text.png is no image"),
        (["fit", "deep.png", "-o", "x.safetensors"], "more than 8 bits per pixel"),
        (["fit", "clear.png", "-o", "x.safetensors"], "has transparency"),
        (["fit", "dot.png", "-o", "x.safetensors"], "has 1x1 pixels; an INR needs at least 2x2"),
        (["fit", "package", "-o", "x.safetensors"], "package is a folder; give an image file"),
        (["fit", "digit.png", "-o", "x.safetensors", "--psnr", "nan"], "takes a number such as 40"),
        (
            ["fit", "digit.png", "-o", "x.safetensors", "--steps", "999999"],
            "would take 6.3 GB of mem",
        ),
        (["fit", "digit.png", "-o", "x.safetensors", "--seed", "-1"], "Invalid value for '--seed'"),
        (["fit", "digit.png", "-o", "x.safetensors", "--size", "0"], "Invalid value for '--size'"),
        (["fit", "digit.png", "-o", "package"], "the name must end in .safetensors"),
        (["fit", "digit.png", "-o", "digit.png/x.safetensors"], "digit.png is not a folder"),
        (["fit", "digit.png", "-o", "x.pt"], "the name must end in .safetensors"),
        (["fit", "digit.png", "-o", "no/x.safetensors"], "no is not a folder"),
        (["edit", "x", "-o", "x.safetensors", "--edit", "melt"], "there is no file x"),
        (["edit", "NET", "-o", "x.safetensors"], "say which edit with --edit"),
        (
            ["edit", "NET", "-o", "x.safetensors", "--edit", "melt"],
            "no editor for 'melt' on grey images",
        ),
        (
            ["edit", "NET", "-o", "x.safetensors", "--editor", "colour.safetensors"],
            "edits networks of 3 channels, this one has 1",
        ),
        (
            [
                "edit",
                "NET",
                "-o",
                "x.safetensors",
                "--editor",
                "grey.safetensors",
                "--edit",
                "blur",
            ],
            "is an editor for 'dilate', not for 'blur'",
        ),
        (["edit", "NET", "-o", "x.safetensors", "--editor", "NET"], "holds weights of a inr"),
        (["edit", "NET", "-o", "x.safetensors", "--editor", "none.safetensors"], "no weights file"),
        (["edit", "NET", "-o", "x.safetensors", "--editor", "half.safetensors"], "is cut off"),
        (["edit", "NET", "-o", "x.safetensors", "--editor", "text.png"], "is cut off or damaged"),
        (
            [
                "edit",
                "NET",
                "-o",
                "x.safetensors",
                "--editor",
                "grey.safetensors",
                "--strength",
                "nan",
            ],
            "takes a number from 0 to 1",
        ),
        (["edit", "NAN", "-o", "x.safetensors", "--editor", "grey.safetensors"], "no finite|NaN"),
        (
            ["edit", "NET", "-o", "x.safetensors", "--editor", "package"],
            "package is a folder; --editor takes a file",
        ),
        (["edit", "package", "-o", "x.safetensors", "--edit", "dilate"], "package is a folder"),
        (["render", "package", "-o", "x.png"], "package is a folder; give the file of a network"),
        (["render", "NET", "-o", "x.png", "--omega", "0"], "--omega takes a positive number"),
        (["render", "NET", "-o", "x.png", "--omega", "nan"], "--omega takes a positive number"),
        (["render", "NET", "-o", "x.png", "--size", "0"], "Invalid value for '--size'"),
        (["render", "NET", "-o", "x.webp", "--size", "20000"], "Invalid value for '--size'"),
        (["gallery", "-o", "x.png", "--editor", "TWO"], "a gallery shows images"),
        (
            [
                "gallery",
                "--count=1",
                "-o",
                "x.png",
                "--editor",
                "grey.safetensors",
                "--strength=1e300",
            ],
            "takes a number from 0 to 1",
        ),
        (["render", "CUT", "-o", "x.png"], "cut off"),
        (["render", "text.png", "-o", "x.png"], "is no safetensors file"),
        (["gallery", "deep.png", "-o", "x.png"], "more than 8 bits"),
        (["gallery", "dot.png", "-o", "x.png", "--editor", "grey.safetensors"], "1x1 pixels"),
        (["edit", "CUT", "-o", "x.safetensors", "--editor", "grey.safetensors"], "cut off"),
        (["edit", "CONV", "-o", "x.safetensors", "--editor", "grey.safetensors"], "is no SIREN"),
        (["edit", "WIDE", "-o", "x.safetensors", "--editor", "grey.safetensors"], "was made for"),
        (["render", "NET", "-o", "x.gif"], "the name must end in .png"),
        (["render", "LINE", "-o", "x.png"], "maps 1 coordinates to 2 values"),
        (["render", "NAN", "-o", "x.png"], "is no safetensors file|no finite|NaN"),
        (["gallery", "-o", "x.png", "--edit", "melt"], "no editor for 'melt' in this"),
        (
            ["gallery", "-o", "x.png", "--editor", "colour.safetensors", "--data", "mnist"],
            "mnist is no data set of colour images, which this editor is for; there are chelsea",
        ),
        (["gallery", "-o", "x.png", "--data", "cifar"], "no bundled images 'cifar'; there are"),
        (["gallery", "-o", "x.png", "--strength", "inf"], "takes a number from 0 to 1"),
        (
            ["gallery", "-o", "x.png", "--editor", "grey.safetensors", "--data", "cifar"],
            "cifar is no",
        ),
        (["gallery", "cut.png", "-o", "x.png", "--editor", "grey.safetensors"], "cut.png is no"),
    ],
)
def test_refusals_are_one_message(run: Run, args: list[str], message: str) -> None:
    names = {"NET": "net", "CUT": "cutoff", "CONV": "conv", "WIDE": "wide", "LINE": "line",
             "NAN": "nan", "TWO": "two"}  # fmt: skip
    Path("package").mkdir()
    if set(args) & set(names):
        _make_networks()
    chosen = [f"{names[a]}.safetensors" if a in names else a for a in args]
    result = run(*chosen)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    text = result.stderr
    assert any(m in text for m in message.split("|")), text
    assert "Traceback" not in text
    for name in ("x.safetensors", "x.png", "x.pt", "x.gif", "x.webp"):
        assert not Path(name).exists()
    assert not list(Path().glob(".*partial"))


def _make_networks() -> None:
    save_inr("net.safetensors", Siren(SirenConfig()))
    Path("cutoff.safetensors").write_bytes(Path("net.safetensors").read_bytes()[:-50])
    save_file(nn.Conv2d(1, 2, 3).state_dict(), "conv.safetensors")
    save_inr("wide.safetensors", FourierConfig(2, 1, (4,)).build())
    save_inr("line.safetensors", Siren(SirenConfig(1, 2)))
    damaged = Siren(SirenConfig())
    with torch.no_grad():
        next(damaged.parameters()).fill_(torch.nan)
    save_inr("nan.safetensors", damaged)
    tiny = EditorConfig("dilate", hidden=8, edge_hidden=4, layers=1)
    save_editor("two.safetensors", WeightEditor(SirenConfig(2, 2), tiny))


@pytest.mark.parametrize(
    "about",
    [{"size": "abc"}, {"size": None}, {"size": [0, 0]}, {"size": [10**7, 10**7]}, {"edits": 3}, []],
)
def test_what_a_file_says_about_itself_is_not_trusted(run: Run, about: Any) -> None:
    save_inr("net.safetensors", Siren(SirenConfig()), about)
    args = ("--editor", "grey.safetensors", "-o", "x.safetensors")
    result = run("edit", "net.safetensors", *args)
    assert result.exit_code == 0, result.output
    assert "note" not in result.stderr
    assert len(read_inr("x.safetensors")[1]["edits"]) == 1
    assert run("render", "net.safetensors", "-o", "x.png").exit_code == 0
    assert picture("x.png").shape == (28, 28)


def test_an_image_that_is_no_square(run: Run) -> None:
    save_inr("net.safetensors", Siren(SirenConfig()), {"size": [10, 20]})
    assert "x.png: 20x10" in run("render", "net.safetensors", "-o", "x.png").stdout
    assert picture("x.png").shape == (10, 20)


@pytest.mark.usefixtures("brief")
def test_a_full_disk_leaves_no_half_written_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_inr("net.safetensors", Siren(SirenConfig()))
    Path("x.png").write_text("stood here before")
    before = sorted(p.name for p in Path().iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for args in (
        ("fit", "digit.png", "-o", "x.safetensors"),
        ("edit", "net.safetensors", "--editor", "grey.safetensors", "-o", "x.safetensors"),
        ("render", "net.safetensors", "-o", "x.png"),
        ("gallery", "--editor", "grey.safetensors", "--count", "1", "-o", "x.png"),
    ):
        result = run(*args, "--force")
        assert result.exit_code == 2
        assert f"cannot write {args[-1]}: No space left on device" in result.stderr
        assert "Traceback" not in result.output
    assert sorted(p.name for p in Path().iterdir()) == before
    assert Path("x.png").read_text() == "stood here before"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")],
)
def test_memory_that_does_not_suffice(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise error

    save_inr("net.safetensors", Siren(SirenConfig()))
    monkeypatch.setattr("gmn_opt.inr.render", full)
    monkeypatch.setattr("gmn_opt.inr.fit_batch", full)
    for args, remedy in (
        (("render", "net.safetensors", "-o", "x.png"), "choose a smaller --size"),
        (("fit", "digit.png", "-o", "x.safetensors"), "lower --size or --width"),
    ):
        result = run(*args)
        assert result.exit_code == 2
        assert f"not enough memory for this; {remedy}" in result.stderr
        assert not Path(args[-1]).exists()
