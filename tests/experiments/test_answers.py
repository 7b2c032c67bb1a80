"""What the networks of a zoo say of images, and what is read from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments.zoo.answers import Answers, answers_of, features
from experiments.zoo.images import images
from experiments.zoo.networks import build
from gmn_opt.graph import trace
from gmn_opt.predict import NetworkDataset

CONFIGS = [
    {"kind": "mlp", "width": 8, "depth": 1, "size": 8},
    {"kind": "cnn", "width": 4, "depth": 2, "kernel": 3, "stride": 2, "norm": "batch", "size": 14},
    {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 7, "size": 14},
]


def zoo() -> NetworkDataset:
    """Two networks of each kind, of either data set, in no order."""
    torch.manual_seed(0)
    networks, rows = [], []
    graphs = {}
    for number in range(2):
        for config in CONFIGS:
            size = int(str(config["size"]))
            model = build(config, size).eval()
            if config["kind"] not in graphs:
                graphs[config["kind"]] = trace(model, torch.randn(2, 1, size, size))
            named = {n: p.detach() for n, p in model.named_parameters()}
            networks.append((graphs[config["kind"]], named))
            rows.append({**config, "data": ("mnist", "fashion_mnist")[number]})
    return NetworkDataset(networks, rows)


def test_answers_are_those_of_the_module() -> None:
    data = zoo()
    found = answers_of(data, asked=12)
    assert found.shape == (6, 12, 10)
    for i, row in enumerate(data.table):
        model = build(row, row["size"])
        model.load_state_dict(dict(data.networks[i].tensors), strict=False)
        # without dropout, this is evaluation with the statistics of the batch
        wanted = model.train()(images(row["data"], row["size"]).train[:12]).softmax(-1)
        torch.testing.assert_close(found[i], wanted.detach(), rtol=1e-4, atol=1e-5)


def test_networks_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zoo()
    for number, row in enumerate(data.table):
        row |= {"network": number, "at": 1.0}
    asked = []

    def ask(of: NetworkDataset) -> Tensor:
        asked.append(len(of))
        return answers_of(of, asked=12)

    monkeypatch.setattr("experiments.zoo.answers.answers_of", ask)
    answers, part = Answers(data), data.where(lambda row: row["data"] == "mnist")
    for some in (part, data, part):
        torch.testing.assert_close(answers.of(some), answers_of(some, asked=12))
    assert asked == [6]


def table(*names: str) -> NetworkDataset:
    return NetworkDataset(zoo().networks[: len(names)], [{"data": name} for name in names])


def sure(classes: list[int], of: float = 0.9) -> Tensor:
    out = torch.full((len(classes), 10), (1 - of) / 9)
    out[torch.arange(len(classes)), classes] = of
    return out


@pytest.mark.parametrize("of", [0.5, 0.9])
def test_features_tell_agreement_and_doubt(of: float) -> None:
    others = torch.stack([sure([0, 1, 2, 3])] * 2 + [sure([5, 5, 5, 5])])
    known = table("mnist", "mnist", "fashion_mnist")
    said = torch.stack([sure([0, 1, 2, 3], of), sure([0, 1, 7, 7], of)])
    found = features(said, table("mnist", "mnist"), others, known)
    assert found.isfinite().all()
    agree, apart, used = found[:, -3], found[:, -2], found[:, -1]
    assert agree.tolist() == [1.0, 0.5]
    assert float(apart[0]) < float(apart[1])
    assert float(apart[0]) == pytest.approx(0, abs=1e-6) or of != 0.9
    assert float(used[0]) > float(used[1])  # four classes, and three
    # median probability of the likeliest class
    assert found[:, 2].tolist() == pytest.approx([of, of])
