from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmn_opt.data import load_photograph, photograph_names
from gmn_opt.data.bundle import BUNDLED
from tasks.data import bundle_photograph
from tasks.inr_data import PHOTOS


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
        for folder in (tmp_path, BUNDLED)
    )
    # another zlib may pack the same pixels otherwise
    assert {**made, "sha256": None} == {**shipped, "sha256": None}
