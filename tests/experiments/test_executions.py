"""All executions that are compared compute the same function."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmarks.executions import EdgeList, dense, gather, preprojected
from gmn_opt import GraphMetanet
from tests.traced import largest_difference, random_tensors, traced


@pytest.mark.parametrize("execution", [gather, preprojected, dense])
def test_same_function(execution) -> None:  # type: ignore[no-untyped-def]
    graph = traced("mlp")[1]
    torch.manual_seed(0)
    metanet = GraphMetanet(1, 1, hidden=8, edge_hidden=4, layers=2)
    with torch.no_grad():
        for p in metanet.parameters():
            p.add_(0.3 * torch.randn_like(p))
    tensors = {n: t.float() for n, t in random_tensors(graph, 3, features=1).items()}
    expected = metanet(graph, tensors)
    found = execution(metanet, EdgeList.of(graph, 3, metanet), tensors)
    assert largest_difference(expected, found) < 1e-5


def test_graphs_with_links_are_refused() -> None:
    graph = traced("resnet")[1]
    with pytest.raises(ValueError, match="without links"):
        EdgeList.of(graph, 1, GraphMetanet(1, 1))
