"""From named tensors to blocks and back."""

from __future__ import annotations

import pytest
import torch

from gmn_opt.metanet import blocked
from tests.cases import Case
from tests.traced import PLAIN, random_tensors, traced

cases = pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.name)


@cases
def test_round_trip_is_exact(case: Case) -> None:
    layout = blocked(traced(case.name)[1])
    tensors = random_tensors(layout.graph, 2)
    back = layout.join(layout.split(tensors))
    flat = layout.unflatten(layout.flatten(tensors))
    for name, t in tensors.items():
        assert torch.equal(back[name], t), name
        assert torch.equal(flat[name], t), name


@cases
def test_every_element_is_one_edge(case: Case) -> None:
    layout = blocked(traced(case.name)[1])
    numel = sum(torch.Size(s).numel() for s in layout.graph.shapes.values())
    assert sum(layout.edge_counts) == numel


def test_wrong_tensors_are_named() -> None:
    layout = blocked(traced("mlp")[1])
    tensors = random_tensors(layout.graph)
    name = next(iter(tensors))
    with pytest.raises(ValueError, match="missing"):
        layout.check({n: t for n, t in tensors.items() if n != name})
    with pytest.raises(ValueError, match="unexpected"):
        layout.check({**tensors, "stranger": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"expected shape \[\.\.\., .*received"):
        layout.check({**tensors, name: torch.zeros(3, 3, 3)})
