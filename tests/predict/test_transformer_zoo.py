"""The Small Transformer Zoo, from small files in its format."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.predict import NetworkError, read_transformer_zoo
from gmn_opt.predict.transformer_zoo import SmallTransformer

WIDTH, HIDDEN, PATCH, SIDE = 8, 12, 2, 3


def state(seed: int, images: bool = True) -> dict[str, Tensor]:
    """What a run of two blocks leaves behind."""
    random = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random) * 0.3

    out: dict[str, Tensor] = {}
    if images:
        out["embedding.pos_embedding"] = made(SIDE**2, WIDTH)
        out["embedding.conv1.weight"] = made(WIDTH, 1, PATCH, PATCH)
        out["embedding.conv1.bias"] = made(WIDTH)
    for i in range(2):
        for name in ("queries", "keys", "values", "out_projection"):
            out[f"encoder.{i}.attention.{name}.weight"] = made(WIDTH, WIDTH)
        for name, a, b in (("fc1", HIDDEN, WIDTH), ("fc2", WIDTH, HIDDEN)):
            out[f"encoder.{i}.{name}.weight"] = made(a, b)
            out[f"encoder.{i}.{name}.bias"] = made(a)
    for name, n in (("fc1", WIDTH), ("fc2", 10)):
        out[f"classifier.{name}.weight"] = made(n, WIDTH)
        out[f"classifier.{name}.bias"] = made(n)
    return out


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two runs on images with two checkpoints each, the best among them; one run on texts."""
    rows = []
    for seed, epoch in ((0, "75"), (1, "best1"), (2, "75"), (3, "50")):
        file = f"run{seed}_{epoch}_9000.pt"
        (tmp_path / "mnist").mkdir(exist_ok=True)
        torch.save(state(seed), tmp_path / "mnist" / file)
        rows.append(["adam", 2, WIDTH, epoch, f"mnist/{file}", 0.9 + seed / 100])
    (tmp_path / "ag_news").mkdir()
    torch.save(state(9, images=False), tmp_path / "ag_news" / "x_75_80.pt")
    (tmp_path / "metadata").mkdir()
    text = [["adam", 4, WIDTH, "75", "ag_news/x_75_80.pt", 0.8]]
    header = ["optimizer", "n_attention_heads", "embed_dim", "ckpt_epoch", "ckpt_file",
              "test_top1_accuracy"]  # fmt: skip
    for name, some in (("mnist", rows), ("ag_news", text)):
        with (tmp_path / "metadata" / f"{name}.csv").open("w", newline="") as metadata:
            csv.writer(metadata).writerows([header, *some])
    return tmp_path


def test_networks_of_images(zoo: Path) -> None:
    found = read_transformer_zoo(zoo)
    assert found.column("test_top1_accuracy").tolist() == pytest.approx([0.9, 0.92])
    wanted = state(2)
    for name, tensor in found[1].tensors.items():
        assert torch.equal(tensor, wanted[name])
    assert found[0].graph is found[1].graph
    # heads, what they have inside, and hidden neurons of every block; the classifier's neurons
    assert len(found[0].graph.spaces) >= 2 * 3 + 1
    assert len(read_transformer_zoo(zoo, epoch=None)) == 4


def test_networks_of_texts(zoo: Path) -> None:
    (network,) = read_transformer_zoo(zoo, "ag_news")
    assert "embedding.conv1.weight" not in network.graph.shapes
    assert network.graph.shapes["classifier.fc2.weight"] == (10, WIDTH)


def test_the_architecture_computes_what_is_published() -> None:
    """No skip connections, norms without scales, scores over the root of a head's width."""
    kept = state(5)
    model = SmallTransformer(kept, 2)
    model.load_state_dict(kept)
    random = torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, SIDE * PATCH, SIDE * PATCH, generator=random)
    patches = F.unfold(image, PATCH, stride=PATCH)[0].T
    weight = kept["embedding.conv1.weight"].flatten(1)
    x = patches @ weight.T + kept["embedding.conv1.bias"] + kept["embedding.pos_embedding"]
    norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
    for i in range(2):
        q, k, v = (
            norm(x) @ kept[f"encoder.{i}.attention.{n}.weight"].T
            for n in ("queries", "keys", "values")
        )
        heads = []
        for h in range(2):
            own = slice(h * WIDTH // 2, (h + 1) * WIDTH // 2)
            scores = q[:, own] @ k[:, own].T / math.sqrt(WIDTH / 2)
            heads.append(scores.softmax(-1) @ v[:, own])
        x = torch.cat(heads, -1) @ kept[f"encoder.{i}.attention.out_projection.weight"].T
        x = F.relu(norm(x) @ kept[f"encoder.{i}.fc1.weight"].T + kept[f"encoder.{i}.fc1.bias"])
        x = x @ kept[f"encoder.{i}.fc2.weight"].T + kept[f"encoder.{i}.fc2.bias"]
    x = norm(x).mean(0)
    x = F.relu(x @ kept["classifier.fc1.weight"].T + kept["classifier.fc1.bias"])
    x = x @ kept["classifier.fc2.weight"].T + kept["classifier.fc2.bias"]
    torch.testing.assert_close(model(image)[0], x, rtol=1e-5, atol=1e-5)


def test_damaged_zoos(zoo: Path) -> None:
    with pytest.raises(NetworkError, match=r"svhn.csv; there are \['ag_news', 'mnist'\]"):
        read_transformer_zoo(zoo, "svhn")
    with pytest.raises(NetworkError, match="no checkpoint of epoch 20"):
        read_transformer_zoo(zoo, epoch=20)
    file = zoo / "mnist" / "run0_75_9000.pt"
    torch.save(state(0) | {"classifier.fc2.weight": torch.zeros(10, 3)}, file)
    with pytest.raises(NetworkError, match="no transformer of this zoo with 2 heads"):
        read_transformer_zoo(zoo)
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(NetworkError, match="holds more than tensors"):
        read_transformer_zoo(zoo)
    torch.save([1], file)
    with pytest.raises(NetworkError, match="no state dict"):
        read_transformer_zoo(zoo)
    file.unlink()
    with pytest.raises(NetworkError, match="is missing"):
        read_transformer_zoo(zoo)
    (zoo / "metadata" / "mnist.csv").write_text("ckpt_file,ckpt_epoch\nmnist/a.pt,75\n")
    with pytest.raises(NetworkError, match="row 1: expected ckpt_file, ckpt_epoch"):
        read_transformer_zoo(zoo)
