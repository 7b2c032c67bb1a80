"""The list of photographs, and how those from packages are kept."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmn_opt.data import DatasetError
from tasks.data import photo_collection
from tasks.data.photo_collection import SIDE, folder, keep, licence, load_photo, names


def test_the_list() -> None:
    assert len(set(names())) == len(names()) >= 60
    parts = [names(part) for part in ("train", "valid", "test")]
    assert sorted(n for part in parts for n in part) == sorted(names())
    assert {"chelsea", "retina", "coffee", "rocket"} <= set(parts[2])
    for name in names():
        assert licence(name).rpartition(", ")[2]
    for entry in photo_collection._listed()["packages"].values():
        assert len(entry["sha256"]) == 64
        assert {"package", "version", "file", "author", "licence"} <= entry.keys()


def test_photographs_are_checked_and_kept_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GMN_OPT_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=r"python -m tasks\.data\.photo_collection"):
        load_photo("castle")
    with pytest.raises(ValueError, match="no photograph 'nothing'"):
        load_photo("nothing")
    folder().mkdir()
    with pytest.raises(DatasetError, match="another version"):
        keep("castle", b"other")
    pixels = np.random.default_rng(0).integers(0, 256, (2 * SIDE, 3 * SIDE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    entry = photo_collection._listed()["packages"]["castle"]
    monkeypatch.setitem(entry, "sha256", hashlib.sha256(file.getvalue()).hexdigest())
    keep("castle", file.getvalue())
    found = load_photo("castle")
    assert found.shape == (SIDE, 3 * SIDE // 2, 3)
    mean = pixels.astype(float).reshape(SIDE, 2, -1, 2, 3).mean((1, 3))
    assert abs(found.numpy() - mean).max() <= 1
    assert load_photo("chelsea").shape == (300, 451, 3)
