"""Predictions do not change when neurons are permuted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from experiments.zoo.networks import build
from gmn_opt.graph import trace
from gmn_opt.predict import ModelConfig, Predictor
from gmn_opt.predict.losses import Regression
from tests.predict.population import mlp

CONFIG = {"kind": "graph", **ModelConfig(hidden=16).to_dict()}


def cnn() -> nn.Module:
    """With batch norms."""
    return build(
        {"kind": "cnn", "width": 4, "depth": 3, "kernel": 3, "stride": 2, "norm": "batch"}, 14
    )


def vit() -> nn.Module:
    """Two heads."""
    return build({"kind": "vit", "width": 8, "depth": 1, "heads": 2, "patch": 7}, 14)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: mlp(6, 2), (2, 3)), (cnn, (2, 1, 14, 14)), (vit, (2, 1, 14, 14))],
)
@pytest.mark.parametrize("kind", ["graph", "statnn", "deepsets"])
def test_permutations(kind: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = make().double().eval()
    for p in model.parameters():
        nn.init.normal_(p)
    graph = trace(model, torch.randn(shape, dtype=torch.float64), progress=False)
    tensors = {n: p.detach() for n, p in model.named_parameters()}
    other = graph.permute(tensors, graph.random_symmetry(torch.Generator().manual_seed(0)))
    assert any(not torch.equal(tensors[n], other[n]) for n in tensors)
    goal = Regression.fitted(torch.tensor([0.0, 1.0]))
    config = CONFIG if kind == "graph" else {"kind": kind, "outputs": 1, "slots": len(tensors)}
    predictor = Predictor(config, goal, 1).double()
    a, b = predictor.predict([(graph, tensors)]), predictor.predict([(graph, other)])
    assert float((a - b).abs().max()) < 1e-9


def test_other_weights_give_another_answer() -> None:
    graph = trace(mlp(6), torch.randn(2, 3), progress=False)
    goal = Regression.fitted(torch.tensor([0.0, 1.0]))
    predictor = Predictor(CONFIG, goal, 1).double()
    first, second = (
        predictor.predict([(graph, {n: torch.randn(s).double() for n, s in graph.shapes.items()})])
        for _ in range(2)
    )
    assert float((first - second).abs()) > 1e-6
