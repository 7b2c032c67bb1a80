from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from gmn_opt.data import bundle as loader
from gmn_opt.data import encode_idx
from tasks.data.bundle import DEFAULT_OUT, PARTS, SOURCES, main


def write_official(folder: Path, packed: bool) -> None:
    """Files of the official names, with enough random images to choose from."""
    folder.mkdir()
    for part, name in PARTS.items():
        count = 12_050 if part.startswith("train") else 2_050
        shape, top = ((count, 3, 3), 256) if part.endswith("images") else ((count,), 10)
        data = encode_idx(torch.randint(0, top, shape, dtype=torch.uint8))
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def build(out: Path, fashion_mnist: Path, mnist: Path) -> None:
    arguments = ["--fashion-mnist", str(fashion_mnist), "--mnist", str(mnist), "--out", str(out)]
    main(arguments)


def test_what_is_written_can_be_loaded_and_is_repeatable(tmp_path: Path) -> None:
    write_official(tmp_path / "one", packed=True)
    write_official(tmp_path / "two", packed=False)
    for out in ("first", "second"):
        build(tmp_path / out, tmp_path / "one", tmp_path / "two")
    for name, source in SOURCES.items():
        data = loader._load(tmp_path / "first", name)
        assert len(data.train_images) == source.train
        assert len(data.test_labels) == source.test
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()


def test_missing_official_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither train-images-idx3-ubyte nor .*\.gz"):
        build(tmp_path / "out", tmp_path, tmp_path)


@pytest.mark.slow
def test_the_shipped_files_come_from_the_official_ones(tmp_path: Path) -> None:
    official = Path("/usr/share/datasets/fashion-mnist")
    if not official.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    write_official(tmp_path / "mnist", packed=False)
    build(tmp_path / "out", official, tmp_path / "mnist")
    rebuilt = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    shipped = json.loads((DEFAULT_OUT / "manifest.json").read_text("utf-8"))
    assert rebuilt["fashion_mnist"] == shipped["fashion_mnist"]
