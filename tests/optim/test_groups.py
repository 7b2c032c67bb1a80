"""Parameter groups for Muon and AdamW."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gmn_opt
from gmn_opt.optim.groups import ParameterGroups
from tests.cases import BY_NAME


def names(groups: list[dict[str, Any]]) -> set[str]:
    return {name for group in groups for name, _ in group["params"]}


def groups_of(case: str, **options: Any) -> tuple[nn.Module, ParameterGroups]:
    model, inputs = BY_NAME[case].make()
    return model, gmn_opt.param_groups(model, *inputs, **options)


MUON = {
    "mlp": {"2.weight"},
    "resnet": set(),
    "linear": set(),
    "gpt_tied": {f"blocks.{i}.{n}.weight" for i in range(2) for n in ("qkv", "o", "up", "down")},
    "vit": {f"block.{n}.weight" for n in ("qkv", "o", "up", "down")},
    "mlp_width_one": set(),
    "weight_norm": {"b.parametrizations.weight.original1"},
    "tied_autoencoder": set(),
}


@pytest.mark.parametrize("case", MUON)
def test_hidden_matrices_and_nothing_else_go_to_muon(case: str) -> None:
    model, (muon, adamw) = groups_of(case)
    assert names(muon) == MUON[case]
    assert names(adamw) == {n for n, _ in model.named_parameters()} - MUON[case]


def test_kernels_go_along_where_asked_for() -> None:
    _, (muon, adamw) = groups_of("resnet", kernels=True)
    kernels = {"one.c1.weight", "one.c2.weight", "two.c1.weight", "two.c2.weight"}
    assert names(muon) == {*kernels, "two.skip.weight"}
    assert {"stem.weight", "head.weight"} <= names(adamw)


def test_gains_and_biases_are_not_decayed() -> None:
    _, (_, adamw) = groups_of("gpt_tied")
    decayed, plain = adamw
    assert names([decayed]) == {"tokens.weight"}
    assert plain["weight_decay"] == 0.0
    assert {"positions.weight", "norm.weight", "norm.bias"} <= names([plain])


def test_frozen_parameters_are_left_out() -> None:
    model, inputs = BY_NAME["mlp"].make()
    model.get_parameter("2.weight").requires_grad_(False)
    muon, adamw = gmn_opt.param_groups(model, *inputs)
    assert not muon
    assert "2.weight" not in names(adamw)


def test_both_optimizers_take_their_groups_and_train() -> None:
    model, (muon, adamw) = groups_of("gpt_tied")
    optimizers = [torch.optim.Muon(muon, lr=0.01), torch.optim.AdamW(adamw, lr=0.01)]
    ids = BY_NAME["gpt_tied"].make()[1][0]
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        losses.append(float(loss.detach()))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < losses[0]


def test_roles_of_a_model() -> None:
    model, inputs = BY_NAME["mlp"].make()
    assert "output layer" in str(gmn_opt.parameter_roles(model, *inputs))
