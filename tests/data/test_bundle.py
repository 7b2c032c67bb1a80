from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from gmn_opt.data import bundle as module
from gmn_opt.data import bundled_names, encode_idx, load_bundled

SIZES = {"fashion_mnist": (10_000, 2_000), "mnist": (12_000, 2_000)}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "bundled"
    shutil.copytree(module.BUNDLED, folder)
    return folder


def test_names() -> None:
    assert set(bundled_names()) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_bundled_images_are_real_and_balanced(name: str) -> None:
    data = load_bundled(name)
    train, test = SIZES[name]
    assert data.train_images.shape == (train, 28, 28)
    assert data.test_images.shape == (test, 28, 28)
    assert data.num_classes == 10
    for labels in (data.train_labels, data.test_labels):
        share = torch.bincount(labels, minlength=10) / len(labels)
        assert float(share.min()) > 0.08
        assert float(share.max()) < 0.12
    # A nearest-mean classifier works, so that images and labels belong together.
    flat = data.train_images.flatten(1).float()
    means = torch.stack([flat[data.train_labels == c].mean(0) for c in range(10)])
    guess = torch.cdist(data.test_images.flatten(1).float(), means).argmin(1)
    assert float((guess == data.test_labels).float().mean()) > 0.65


def test_the_manifest_tells_the_truth() -> None:
    manifest = json.loads((module.BUNDLED / "manifest.json").read_text())
    for name, entry in manifest.items():
        data = load_bundled(name)
        for split, labels in (("train", data.train_labels), ("test", data.test_labels)):
            assert torch.bincount(labels).tolist() == entry["class_counts"][split]
        for part, file in entry["files"].items():
            assert list(getattr(data, part).shape) == file["shape"]


def test_the_package_data_stays_small() -> None:
    assert sum(file.stat().st_size for file in module.BUNDLED.iterdir()) < 8_000_000


def test_calls_share_no_memory() -> None:
    load_bundled("mnist").test_images.zero_()
    assert load_bundled("mnist").test_images.any()


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match="'cifar'; there are fashion_mnist, mnist"):
        load_bundled("cifar")


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"manifest\.json is missing; reinstall gmn-opt"):
        module._load(tmp_path, "mnist")


def test_missing_file(copy: Path) -> None:
    (copy / "mnist-test-labels.idx.gz").unlink()
    with pytest.raises(RuntimeError, match=r"mnist-test-labels\.idx\.gz is missing; reinstall"):
        module._load(copy, "mnist")


def test_truncated_file(copy: Path) -> None:
    path = copy / "mnist-test-labels.idx.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RuntimeError, match="is damaged .*truncated.*; reinstall"):
        module._load(copy, "mnist")


def test_other_contents(copy: Path) -> None:
    path = copy / "mnist-test-labels.idx.gz"
    path.write_bytes(gzip.compress(encode_idx(torch.zeros(2000, dtype=torch.uint8))))
    with pytest.raises(RuntimeError, match="is damaged .sha256 .* expected"):
        module._load(copy, "mnist")
