"""Graphs of the case models, traced once per test process."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
from tests.cases import BY_NAME, CASES, Case

#: Cases whose graphs the metanet and the optimizer are tested on: all that hold no traps.
PLAIN: list[Case] = [c for c in CASES if "adversarial" not in c.tags]


@cache
def traced(name: str, contracted: bool = False) -> tuple[nn.Module, ParameterGraph]:
    """The case's model in float64 and its graph. Do not change the model."""
    model, inputs = BY_NAME[name].make()
    graph = trace(model, *inputs)
    return model.double(), graph.contract() if contracted else graph


def random_tensors(
    graph: ParameterGraph, *lead: int, features: int = 0, seed: int = 0
) -> dict[str, Tensor]:
    """Float64 normal tensors in the shapes of a graph, ``[*lead, *shape]`` (and features)."""
    generator = torch.Generator().manual_seed(seed)
    tail = (features,) if features else ()
    return {
        name: torch.randn((*lead, *shape, *tail), generator=generator, dtype=torch.float64)
        for name, shape in graph.shapes.items()
    }


def permute(graph: ParameterGraph, tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Named tensors ``[*shape]`` under a random symmetry of the graph."""
    symmetry = graph.random_symmetry(torch.Generator().manual_seed(seed))
    return graph.permute(tensors, symmetry)


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest norm-relative difference over the named tensors."""
    assert a.keys() == b.keys()
    found = 0.0
    for name, x in a.items():
        scale = float(x.detach().norm()) + 1e-30
        found = max(found, float((x - b[name]).detach().norm()) / scale)
    return found
