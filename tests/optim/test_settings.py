"""Settings that belong to other optimizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gmn_opt import GMNOptimizer
from tests.optim.contract.kit import small_rule


def make(**settings: Any) -> GMNOptimizer:
    return GMNOptimizer([nn.Parameter(torch.ones(2))], weights=small_rule(), **settings)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("betas", (0.9, 0.999), "belong to its weights"),
        ("momentum", 0.9, "belong to its weights"),
        ("nesterov", True, "belong to its weights"),
        ("eps", 1e-8, "do not depend on the scale"),
        ("amsgrad", True, "no second moment"),
        ("foreach", True, "one implementation"),
        ("fused", True, "one implementation"),
        ("capturable", True, "reads gradients on the CPU"),
        ("differentiable", True, "LearnedRule"),
    ],
)
def test_settings_of_other_optimizers_are_refused_with_the_reason(
    name: str, value: Any, reason: str
) -> None:
    with pytest.raises(TypeError, match=f"no '{name}', received .*{reason}.* Leave it out"):
        make(**{name: value})
    with pytest.raises(TypeError, match=f"no '{name}'"):
        make().add_param_group({"params": [nn.Parameter(torch.ones(2))], name: value})


@pytest.mark.parametrize("name", ["amsgrad", "foreach", "fused", "capturable", "differentiable"])
@pytest.mark.parametrize("value", [False, None])
def test_values_that_ask_for_nothing_pass(name: str, value: Any) -> None:
    assert make(**{name: value}).param_groups


def test_going_up_means_what_it_says() -> None:
    up, down = (make(maximize=m) for m in (True, False))
    for opt in (up, down):
        opt.param_groups[0]["params"][0].grad = torch.tensor([1.0, -2.0])
        with pytest.warns(UserWarning, match="without their graph"):
            opt.step()
    moved = [opt.param_groups[0]["params"][0].detach() - 1 for opt in (up, down)]
    assert torch.equal(moved[0].sign(), torch.tensor([1.0, -1.0]))
    assert torch.equal(moved[1].sign(), torch.tensor([-1.0, 1.0]))
