"""Networks in folders: what is written comes back, and what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gmn_opt.predict import NetworkDataset, NetworkError
from tests.predict.population import INPUTS, population


@pytest.fixture
def dataset() -> NetworkDataset:
    models, targets = population(12)
    return NetworkDataset(models, {"scale": targets}, example_inputs=INPUTS)


def test_to_a_folder_and_back(dataset: NetworkDataset, tmp_path: Path) -> None:
    dataset.save(tmp_path, shard=3)
    back = NetworkDataset.load(tmp_path)
    assert back.table == dataset.table
    for a, b in zip(dataset, back, strict=True):
        assert a.graph.to_json() == b.graph.to_json()
        assert all(torch.equal(t, b.tensors[n]) for n, t in a.tensors.items())
    parts = list(NetworkDataset.stream(tmp_path))
    assert max(len(p) for p in parts) == 3
    seen = sorted(row["scale"] for part in parts for row in part.table)
    assert seen == sorted(dataset.column("scale").tolist())
    with pytest.raises(ValueError, match="holds a data set already"):
        dataset.save(tmp_path)


def test_parts(dataset: NetworkDataset) -> None:
    train, test = dataset.split(0.75, seed=1)
    assert (len(train), len(test)) == (9, 3)
    values = [*train.column("scale").tolist(), *test.column("scale").tolist()]
    assert sorted(values) == sorted(dataset.column("scale").tolist())
    assert dataset[2:4].table == dataset.table[2:4]
    assert len(dataset.where(lambda row: row["scale"] > 0)) == int(
        (dataset.column("scale") > 0).sum()
    )
    with pytest.raises(KeyError, match="have no 'tau'"):
        dataset.column("tau")
    with pytest.raises(ValueError, match="sum up to below 1"):
        dataset.split(0.5, 0.5)


def test_other_lengths() -> None:
    models, targets = population(12)
    with pytest.raises(ValueError, match="12 networks, but columns of"):
        NetworkDataset(models, {"scale": targets[:5]}, example_inputs=INPUTS)
    with pytest.raises(ValueError, match="12 networks, but 1 rows"):
        NetworkDataset(models, [{}], example_inputs=INPUTS)


def test_damage(dataset: NetworkDataset, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="holds no data set"):
        NetworkDataset.load(tmp_path)
    dataset.save(tmp_path)
    shard = tmp_path / "networks-00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-4])
    with pytest.raises(NetworkError, match=r"networks-00001.safetensors is cut off or damaged"):
        NetworkDataset.load(tmp_path)
    shard.unlink()
    with pytest.raises(NetworkError, match=r"networks-00001.safetensors is missing"):
        NetworkDataset.load(tmp_path)
    shard.write_bytes(content)
    assert len(NetworkDataset.load(tmp_path)) == 12
    index = tmp_path / "dataset.json"
    index.write_text(json.dumps({"format": 99}))
    with pytest.raises(NetworkError, match="expected format 1, got 99"):
        NetworkDataset.load(tmp_path)
    index.write_text("{")
    with pytest.raises(NetworkError, match="is damaged"):
        NetworkDataset.load(tmp_path)
