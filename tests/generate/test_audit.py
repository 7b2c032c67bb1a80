"""The audit tells copies from new networks."""

from __future__ import annotations

import json

import pytest
import torch

from gmn_opt.generate.audit import audit, nearest_images, shared_errors
from tests.generate.networks import mlp_graph, mlps


@pytest.mark.parametrize("exact", [False, True])
def test_permuted_copies_are_found(exact: bool) -> None:
    graph, training = mlp_graph(), mlps(12)
    symmetry = graph.random_symmetry(torch.Generator().manual_seed(9))
    copies = symmetry.apply({n: t[3:6] for n, t in training.items()})
    found = audit(copies, training, graph, exact=exact)
    assert found.which.tolist() == [3, 4, 5]
    assert float(found.nearest.max()) < 1e-5
    assert found.copies == 1
    assert found.novelty < 1e-5
    assert "copies 100 %" in found.text()


def test_new_networks_are_told_from_copies() -> None:
    graph, training = mlp_graph(), mlps(12)
    new = {n: torch.randn(4, *t.shape[1:]) * 3 for n, t in training.items()}
    found = audit(new, training, graph)
    assert found.novelty > 1
    assert found.copies == 0
    assert set(found.summary()) >= {"novelty", "copies", "training_pairs_median"}


def test_in_a_shared_order_nothing_is_aligned() -> None:
    graph, training = mlp_graph(), mlps(12)
    same = {n: t[:2] for n, t in training.items()}
    found = audit(same, training, graph, shared_order=True)
    assert found.which.tolist() == [0, 1]
    assert float(found.nearest.max()) == 0
    assert float(found.among.min()) > 0


def test_near_networks_are_at_their_distance() -> None:
    """As after a few steps from one start: differences are far below what rounding of norms is."""
    graph, start = mlp_graph(), mlps(1)
    near = {
        n: t + 1e-5 * torch.randn(8, *t.shape[1:], generator=torch.Generator().manual_seed(2))
        for n, t in start.items()
    }
    new = {n: t[:2] + 1e-5 for n, t in near.items()}
    found = audit(new, near, graph, shared_order=True)
    wanted = 1e-5 * sum(t[0].numel() for t in near.values()) ** 0.5
    assert found.nearest.tolist() == pytest.approx([wanted, wanted], rel=0.05)
    assert found.copies == 0


@pytest.mark.parametrize("shared_order", [False, True])
def test_training_networks_that_are_all_the_same(shared_order: bool) -> None:
    """There is nothing to compare with, and JSON knows no NaN."""
    graph = mlp_graph()
    same = {n: t.expand(6, *t.shape[1:]) for n, t in mlps(1).items()}
    found = audit(mlps(3, seed=1), same, graph, shared_order=shared_order)
    kept = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert kept["novelty"] is None
    assert kept["nearest_by_training_nearest"] is None
    assert kept["nearest_median"] > 0
    assert "nan" in found.text()


def test_shared_errors_are_intersection_over_union() -> None:
    labels = torch.zeros(6, dtype=torch.int64)
    first = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    second = torch.tensor([[0, 1, 1, 1, 0, 0]])
    assert shared_errors(first, second, labels).flatten().tolist() == [0.5, 0.0]
    with pytest.raises(ValueError, match="Expected predictions"):
        shared_errors(first, second[:, :3], labels)


def test_nearest_images() -> None:
    known = torch.rand(5, 4, 4)
    values, which = nearest_images(known[[2, 4]] + 0.1, known)
    assert which.tolist() == [2, 4]
    assert values.tolist() == pytest.approx([0.1, 0.1], abs=1e-3)
    with pytest.raises(ValueError, match="cannot be compared"):
        nearest_images(known, torch.rand(5, 3, 3))
