"""Networks of a zoo in one form of those that scales of ReLU neurons lead to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from experiments.zoo.networks import build
from experiments.zoo.scales import in_one_scale
from gmn_opt.graph import trace
from gmn_opt.predict import NetworkDataset

CNN = {"kind": "cnn", "width": 4, "depth": 3, "kernel": 3, "stride": 2}
#: Configs, and whether any neuron's scale is free.
CASES: list[tuple[dict[str, Any], bool]] = [
    ({**CNN, "norm": None}, True),
    ({**CNN, "norm": "batch"}, True),
    ({**CNN, "norm": "batch", "activation": "tanh"}, False),
    ({**CNN, "norm": "group"}, False),
    ({**CNN, "norm": None, "activation": "gelu"}, False),
    ({"kind": "mlp", "width": 8, "depth": 2}, True),
    ({"kind": "cnn1d", "width": 8, "depth": 2, "kernel": 3}, True),
    ({"kind": "resnet", "width": 4, "depth": 1, "kernel": 3, "norm": None}, False),
    ({"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 7}, False),
]


def said(config: dict[str, Any], tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    model = build(config, 14).double()
    model.load_state_dict(tensors, strict=False)
    out: torch.Tensor = model(x)
    return out.detach()


def drawn(config: dict[str, Any]) -> nn.Module:
    model = build(config, 14)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize(("config", "free"), CASES)
def test_networks_say_the_same_and_scales_are_gone(config: dict[str, Any], free: bool) -> None:
    torch.manual_seed(0)
    model, x = drawn(config), torch.randn(5, 1, 14, 14)
    graph = trace(model.eval(), x)
    tensors = {n: p.detach().double() for n, p in model.named_parameters()}
    data = in_one_scale(NetworkDataset([(graph, tensors)], [config]))
    found = dict(data.networks[0].tensors)
    torch.testing.assert_close(said(config, found, x.double()), said(config, tensors, x.double()))
    if not free:
        moved = {n for n in tensors if not torch.equal(found[n], tensors[n])}
        assert all(n.endswith("bias") and float(found[n].abs().max()) == 0 for n in moved)
        return
    # the same network, other scales: one of its neurons at thrice its size
    with torch.no_grad():
        first = "1" if f"{config['kind']}" != "cnn" else "0"
        scaled = "1" if config.get("norm") == "batch" else first
        weighted = [
            n for n, m in model.named_children() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv1d)
        ]
        reader = weighted[1]
        other = {n: t.clone() for n, t in tensors.items()}
        other[f"{scaled}.weight"][2] *= 3
        other[f"{scaled}.bias"][2] *= 3
        other[f"{reader}.weight"][:, 2] /= 3
    torch.testing.assert_close(said(config, other, x.double()), said(config, tensors, x.double()))
    again = in_one_scale(NetworkDataset([(graph, other)], [config])).networks[0].tensors
    for n in tensors:
        torch.testing.assert_close(again[n], found[n])
