"""A small meta-training run, and what its state is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmn_opt.meta import MetaConfig, MetaTrainer, TruncatedBackprop, Uniform
from gmn_opt.optim import RuleConfig

TINY = MetaConfig(
    meta_steps=7,
    runs=2,
    meta_batch=1,
    max_networks=2,
    edges_per_batch=4000,
    estimator=TruncatedBackprop(Uniform(1, 3)),
    horizon=(3, 8),
    warmup=3,
    rule=RuleConfig(hidden=4, edge_hidden=2, layers=1, every=1),
)


def everything(trainer: MetaTrainer) -> dict[str, Any]:
    """The state as a flat dictionary of copies."""
    flat: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}/{key}", inner)
        elif isinstance(value, list | tuple):
            for i, inner in enumerate(value):
                walk(f"{path}/{i}", inner)
        else:
            flat[path] = value.clone() if isinstance(value, Tensor) else value

    walk("", trainer.state_dict())
    return flat


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, Tensor) else value == b[key]
        assert same, key
