"""Pairing of noise and data up to symmetries."""

from __future__ import annotations

import torch

from gmn_opt.generate import paired
from gmn_opt.metanet import blocked
from tests.generate.networks import mlp_graph, mlps


def test_a_permuted_copy_is_found() -> None:
    graph = mlp_graph(6)
    layout = blocked(graph)
    data = layout.flatten(mlps(3, 6))
    symmetry = graph.random_symmetry(torch.Generator().manual_seed(0))
    noise = layout.flatten(symmetry.apply(layout.unflatten(data)))
    assert not torch.equal(noise, data)
    assert torch.equal(paired(graph, noise, data), data)


def test_pairs_are_nearer_and_permutations_of_what_came() -> None:
    graph = mlp_graph(6)
    data = blocked(graph).flatten(mlps(4, 6))
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(1))
    moved = paired(graph, noise, data)
    assert bool(((moved - data).norm(dim=1) < (noise - data).norm(dim=1)).all())
    torch.testing.assert_close(moved.sort(1).values, noise.sort(1).values, rtol=0, atol=0)
