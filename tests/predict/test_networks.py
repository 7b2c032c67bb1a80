"""What is taken for a network, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gmn_opt.graph import trace
from gmn_opt.predict import NetworkError, as_networks
from gmn_opt.predict.networks import signature, stacked
from tests.predict.population import INPUTS, mlp, population


class Scaled(nn.Module):
    """Two of these with other ``by`` are other functions."""

    def __init__(self, by: Any) -> None:
        super().__init__()
        self.inner, self.by = nn.Linear(3, 2), by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x) * self.by
        return out


def test_one_trace_per_architecture() -> None:
    models, _ = population(12)
    networks = as_networks(models, INPUTS)
    assert len({id(n.graph) for n in networks}) == 4
    assert sum(len(s) for s in stacked(networks)) == 12


def test_signatures() -> None:
    assert signature(mlp(4)) == signature(mlp(4)) != signature(mlp(5))
    assert signature(Scaled(2)) == signature(Scaled(2)) != signature(Scaled(3))
    assert signature(Scaled(torch.ones(2))) is None  # nobody can know


def test_refusals() -> None:
    model = mlp(4)
    graph = trace(model, *INPUTS, progress=False)
    tensors = {n: p.detach() for n, p in model.named_parameters()}
    with pytest.raises(NetworkError, match="received none"):
        as_networks([])
    with pytest.raises(NetworkError, match="received a single one"):
        as_networks(model, INPUTS)  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="Network 0 of 1 is a str"):
        as_networks(["model.pt"])  # type: ignore[list-item]
    with pytest.raises(NetworkError, match=r"has no tensor '0.weight'"):
        as_networks([(graph, {})])
    with pytest.raises(NetworkError, match=r"0.weight has shape \[3, 3\], its graph says \[4, 3\]"):
        as_networks([(graph, {**tensors, "0.weight": torch.zeros(3, 3)})])
    with pytest.raises(NetworkError, match="meta device"):
        as_networks([(graph, {n: t.to("meta") for n, t in tensors.items()})])
    with pytest.raises(NetworkError, match="cannot be traced"):
        as_networks([model], (torch.zeros(2, 7),))
    for empty in (nn.Linear(3, 2, device="meta"), nn.LazyLinear(2)):
        with pytest.raises(NetworkError, match=r"no values in \['weight', 'bias'\]"):
            as_networks([empty], INPUTS)
