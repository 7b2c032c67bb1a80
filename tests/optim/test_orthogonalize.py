"""Newton-Schulz iteration: singular values near 1, and one result whatever way it is taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmn_opt.optim import orthogonalize as module
from gmn_opt.optim.orthogonalize import orthogonalize, orthogonalize_all


def plain(x: Tensor, steps: int = 5) -> Tensor:
    """The iteration as Jordan et al. 2024 write it, on a matrix that is not taller than wide."""
    x = x / x.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (3, 2, 7, 5)])
def test_singular_values_are_evened_out(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    y = orthogonalize(x, steps=6)
    values = torch.linalg.svdvals(y)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    exact = u @ vh
    cosine = (exact * y).sum((-2, -1)) / (exact.norm(dim=(-2, -1)) * y.norm(dim=(-2, -1)))
    assert float(cosine.min()) > 0.97


def test_zero_stays_zero() -> None:
    assert not orthogonalize(torch.zeros(3, 4)).any()


def test_it_equals_plain_newton_schulz() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 7, dtype=torch.float64)
    assert torch.allclose(orthogonalize(x), plain(x), rtol=1e-9, atol=1e-12)
    assert torch.allclose(orthogonalize(x.T), plain(x).T, rtol=1e-9, atol=1e-12)


def test_many_matrices_at_once_equal_one_by_one() -> None:
    torch.manual_seed(0)
    shapes = [(4, 7), (7, 4), (2, 3, 5), (4, 7), (5, 3), (1, 1)]
    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    for x, y in zip(given, orthogonalize_all(given), strict=True):
        assert y.shape == x.shape
        assert torch.allclose(y, orthogonalize(x), rtol=1e-12, atol=1e-14)


def test_it_commutes_with_permutations() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 8, dtype=torch.float64)
    rows, columns = torch.randperm(5), torch.randperm(8)
    moved = orthogonalize(x[rows][:, columns])
    assert torch.allclose(moved, orthogonalize(x)[rows][:, columns], atol=1e-12)


def test_bfloat16_serves_large_matrices_where_the_hardware_is_made_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_cpu_has_bfloat16", lambda: True)
    torch.manual_seed(0)
    large, small = torch.randn(200, 320), torch.randn(20, 32)
    fast, slow = orthogonalize_all([large, small], fast=True), orthogonalize_all([large, small])
    assert not torch.equal(fast[0], slow[0])
    assert torch.equal(fast[1], slow[1])
    assert float((fast[0] - slow[0]).norm() / slow[0].norm()) < 0.05
    assert torch.equal(
        orthogonalize_all([large.double()], fast=True)[0], orthogonalize(large.double())
    )
