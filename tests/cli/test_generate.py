"""`gmn-opt generate digits` writes pictures and networks, and refuses what it cannot make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from gmn_opt.cli.app import app
from gmn_opt.inr import load_inr, render


def call(*args: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["generate", "digits", *args])
    return found.exit_code, found.output


def test_digits_are_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text = call("--class", "3", "-n", "3", "-o", str(out))
    assert code == 0, text
    names = sorted(p.name for p in out.iterdir())
    digits = [f"digit-3-{i:03d}.{kind}" for i in range(3) for kind in ("png", "safetensors")]
    assert names == [*digits, "sheet.png"]
    picture = Image.open(out / "digit-3-001.png")
    assert picture.size == (56, 56)
    pixels = torch.tensor(list(picture.tobytes())).view(56, 56)
    assert int(pixels[0].max()) < 100  # black around
    assert int(pixels.max()) > 200
    shown = render(load_inr(out / "digit-3-001.safetensors"), 56)[..., 0]
    shown = ((shown.detach() + 1) / 2).clamp(0, 1) * 255
    assert float((shown - pixels).abs().max()) < 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--class", "11"], "Unknown class 11"),
        (["-n", "0"], "cannot generate 0 digits"),
        (["--size", "10"], "28 pixels at least"),
        (["--weights", "none.safetensors"], "no weights file"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path: Path, args: list[str], message: str) -> None:
    code, text = call("-o", str(tmp_path / "out"), *args)
    assert code == 2
    assert message in " ".join(text.split())
    assert not (tmp_path / "out").exists()
