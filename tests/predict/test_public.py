"""Published zoos, from small files in their formats."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gmn_opt.predict import NetworkError
from gmn_opt.predict.public import SmallCNN, read_model_zoo, read_small_cnn_zoo
from tests.predict.population import INPUTS, mlp


def keras(model: SmallCNN) -> list[tuple[str, np.ndarray]]:
    """Variables as the zoo has them: biases first, channels last."""
    found = []
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for number, layer in enumerate(layers):
        w = layer.weight.detach()
        kernel = w.permute(2, 3, 1, 0) if w.dim() == 4 else w.T
        name = "dense" if w.dim() == 2 else "conv2d" + f"_{number}" * bool(number)
        assert layer.bias is not None
        found.append((f"sequential/{name}/bias:0", layer.bias.detach().numpy()))
        found.append((f"sequential/{name}/kernel:0", kernel.numpy()))
    return found


@pytest.fixture
def cnns(tmp_path: Path) -> tuple[Path, list[SmallCNN]]:
    """Three checkpoints of two runs."""
    models = [SmallCNN("relu"), SmallCNN("relu"), SmallCNN("tanh")]
    rows = [np.concatenate([v.flatten() for _, v in keras(m)]) for m in models]
    np.save(tmp_path / "weights.npy", np.stack(rows))
    place, layout = 0, []
    for name, v in keras(models[0]):
        layout.append([name, place, place + v.size, v.size, str(v.shape)])
        place += v.size
    assert place == 4970
    with (tmp_path / "layout.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["varname", "start_idx", "end_idx", "size", "shape"], *layout])
    with gzip.open(tmp_path / "metrics.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows(
            [
                ["modeldir", "step", "test_accuracy", "config.activation"],
                ["a", 1, 0.1, "relu"], ["a", 86, 0.7, "relu"], ["b", 86, 0.6, "tanh"],
            ]
        )  # fmt: skip
    return tmp_path, models


def test_small_cnns(cnns: tuple[Path, list[SmallCNN]]) -> None:
    folder, models = cnns
    found = read_small_cnn_zoo(folder)
    assert found.column("test_accuracy").tolist() == pytest.approx([0.7, 0.6])
    assert len(read_small_cnn_zoo(folder, last=False)) == 3
    assert found[0].graph is not found[1].graph
    x = torch.randn(2, 1, 28, 28)
    for network, model in zip(found, models[1:], strict=True):
        other = SmallCNN("tanh" if model is models[2] else "relu")
        other.load_state_dict(dict(network.tensors))
        torch.testing.assert_close(other(x), model(x))


def test_damaged_small_cnns(cnns: tuple[Path, list[SmallCNN]]) -> None:
    folder, _ = cnns
    weights, layout = folder / "weights.npy", folder / "layout.csv"
    content, text = weights.read_bytes(), layout.read_text()
    weights.write_bytes(content[:-100])
    with pytest.raises(NetworkError, match=r"weights.npy is cut off or damaged"):
        read_small_cnn_zoo(folder)
    np.save(weights, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(NetworkError, match=r"weights.npy is cut off or damaged"):
        read_small_cnn_zoo(folder)
    np.save(weights, np.zeros((2, 4970), dtype=np.float32))
    with pytest.raises(NetworkError, match=r"need \[3, 4970\]"):
        read_small_cnn_zoo(folder)
    layout.write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(NetworkError, match="expected those of three convolutions"):
        read_small_cnn_zoo(folder)
    layout.unlink()
    with pytest.raises(NetworkError, match=r"no layout.csv"):
        read_small_cnn_zoo(folder)
    metrics = folder / "metrics.csv.gz"
    metrics.write_bytes(metrics.read_bytes()[:20])
    with pytest.raises(NetworkError, match=r"metrics.csv.gz is cut off or damaged"):
        read_small_cnn_zoo(folder)
    metrics.unlink()
    with pytest.raises(NetworkError, match=r"no metrics.csv"):
        read_small_cnn_zoo(folder)
    weights.unlink()
    with pytest.raises(NetworkError, match=r"no weights.npy"):
        read_small_cnn_zoo(folder)


@pytest.fixture
def zoo(tmp_path: Path) -> tuple[Path, list[nn.Module]]:
    """Two networks, the second with two checkpoints."""
    models: list[nn.Module] = [mlp(4), mlp(4), mlp(4)]
    places = [("first", 2), ("second", 1), ("second", 2)]
    for model, (name, epoch) in zip(models, places, strict=True):
        folder = tmp_path / name / f"checkpoint_{epoch:06d}"
        folder.mkdir(parents=True)
        torch.save(model.state_dict(), folder / "checkpoints")
    for number, name in enumerate(("first", "second")):
        lines: list[dict[str, Any]] = [
            {"training_iteration": i, "test_acc": 0.1 * i + number, "config": {"lr": 0.1, "x": []}}
            for i in (1, 2)
        ]
        (tmp_path / name / "result.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return tmp_path, models


def test_model_zoo(zoo: tuple[Path, list[nn.Module]]) -> None:
    folder, models = zoo
    found = read_model_zoo(folder, mlp(4), INPUTS)
    assert found.column("test_acc").tolist() == pytest.approx([0.2, 1.2])
    assert found.table[0] == {
        "folder": "first", "epoch": 2, "config.lr": 0.1, "training_iteration": 2, "test_acc": 0.2,
    }  # fmt: skip
    for network, model in zip(found, (models[0], models[2]), strict=True):
        assert all(torch.equal(p, network.tensors[n]) for n, p in model.named_parameters())
    with pytest.raises(NetworkError, match=r"has checkpoints \[2\], none of epoch 1"):
        read_model_zoo(folder, mlp(4), INPUTS, epoch=1)


def test_damaged_model_zoo(zoo: tuple[Path, list[nn.Module]], tmp_path: Path) -> None:
    folder, _ = zoo
    with pytest.raises(NetworkError, match=r"0.weight has shape \[4, 3\], its graph says \[5, 3\]"):
        read_model_zoo(folder, mlp(5), INPUTS)
    with pytest.raises(NetworkError, match="expected"):
        read_model_zoo(folder, mlp(4, 2), INPUTS)
    file = folder / "first" / "checkpoint_000002" / "checkpoints"
    torch.save(mlp(4), file)
    with pytest.raises(NetworkError, match="holds more than tensors"):
        read_model_zoo(folder, mlp(4), INPUTS)
    file.write_bytes(b"damage")
    with pytest.raises(NetworkError, match="is damaged"):
        read_model_zoo(folder, mlp(4), INPUTS)
    with pytest.raises(NetworkError, match="is no model zoo"):
        read_model_zoo(folder / "first", mlp(4), INPUTS)
