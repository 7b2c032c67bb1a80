from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmn_opt.data import load_photograph, photograph_names, photograph_path
from gmn_opt.data import photographs as module


def test_the_photograph_is_in_colour_and_small() -> None:
    assert photograph_names() == ("chelsea",)
    pixels = load_photograph()
    assert pixels.shape == (128, 128, 3)
    assert pixels.dtype == torch.uint8
    means = pixels.double().mean((0, 1))
    assert means[0] > means[1] > means[2] > 50  # a ginger cat
    assert photograph_path("chelsea").stat().st_size < 40_000
    with Image.open(photograph_path()) as file:
        assert file.mode == "RGB"
        assert np.array_equal(np.array(file), pixels.numpy())


def test_unknown_names_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no bundled photograph 'dog'; there is chelsea"):
        load_photograph("dog")
    monkeypatch.setattr(module, "BUNDLED", tmp_path)
    with pytest.raises(RuntimeError, match=r"photographs\.json is missing; reinstall"):
        load_photograph()
    folder = Path(shutil.copytree(Path(module.__file__).parent / "bundled", tmp_path / "copy"))
    monkeypatch.setattr(module, "BUNDLED", folder)
    (folder / "chelsea.png").write_bytes((folder / "chelsea.png").read_bytes()[:-1])
    for call in (load_photograph, photograph_path):
        with pytest.raises(RuntimeError, match=r"chelsea\.png is damaged .sha256 .*; reinstall"):
            call()
    (folder / "chelsea.png").unlink()
    with pytest.raises(RuntimeError, match=r"chelsea\.png is missing; reinstall"):
        load_photograph()
