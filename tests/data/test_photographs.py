from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmn_opt.data import load_photograph, photograph_names, photograph_path
from gmn_opt.data import photographs as module
from tasks.data import bundle_photograph
from tasks.inr_data import PHOTOS


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


def test_it_shows_what_editors_were_not_trained_on() -> None:
    for name in photograph_names():
        assert name in PHOTOS["test"]
        assert name not in PHOTOS["train"] + PHOTOS["valid"]


def test_it_is_rebuilt_from_scikit_image(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    bundle_photograph.main(["--out", str(tmp_path)])
    with Image.open(tmp_path / "chelsea.png") as file:
        assert np.array_equal(np.array(file), load_photograph().numpy())
    made, shipped = (
        json.loads((folder / "photographs.json").read_text())["chelsea"]
        for folder in (tmp_path, module.BUNDLED)
    )
    # another zlib may pack the same pixels otherwise
    assert {**made, "sha256": None} == {**shipped, "sha256": None}


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
