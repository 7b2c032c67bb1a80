"""Newton-Schulz iteration: singular values near 1, and one result whatever way it is taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmn_opt.optim import orthogonalize as module
from gmn_opt.optim.orthogonalize import DAMPED, RAISED, orthogonalize, orthogonalize_all


def plain(x: Tensor, steps: int = 5) -> Tensor:
    """The iteration as Jordan et al. 2024 write it, on a matrix that is not taller than wide."""
    x = x / x.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def plain_damped(x: Tensor) -> Tensor:
    """What damping leaves of a matrix of any shape, written on singular values."""
    if x.shape[0] > x.shape[1]:
        return plain_damped(x.T).T
    u, s, vh = torch.linalg.svd(x / x.norm(), full_matrices=False)
    return plain(x) - (u * (DAMPED * s - RAISED * s**3)) @ vh


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
    for damped in (False, True):
        assert not orthogonalize_all([torch.zeros(3, 4)], damped=damped)[0].any()


@pytest.mark.parametrize("columns", [4, 5, 6, 7, 40])
def test_it_equals_plain_newton_schulz(columns: int) -> None:
    """Nearly square or wide, which are iterated on in two ways."""
    torch.manual_seed(0)
    x = torch.randn(4, columns, dtype=torch.float64)
    assert torch.allclose(orthogonalize(x), plain(x), rtol=1e-9, atol=1e-12)
    assert torch.allclose(orthogonalize(x.T), plain(x).T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("columns", [3, 6])
@pytest.mark.parametrize("damped", [False, True])
def test_slopes(columns: int, damped: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, columns, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: orthogonalize_all([y], damped=damped)[0], (x,))


def test_many_matrices_at_once_equal_one_by_one() -> None:
    torch.manual_seed(0)
    shapes = [(4, 7), (7, 4), (2, 3, 5), (4, 7), (5, 3), (1, 1)]
    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    for x, y in zip(given, orthogonalize_all(given), strict=True):
        assert y.shape == x.shape
        assert torch.allclose(y, orthogonalize(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (1, 3), (3, 1)])
def test_damping_equals_damped_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    x[0] *= 5  # one direction larger than the others
    (made,) = orthogonalize_all([x], damped=True)
    assert torch.allclose(made, plain_damped(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 5, 16])
def test_a_damped_step_never_goes_against_the_orthogonalized_one(rank: int) -> None:
    """Whatever the spectrum: the least that is left of a singular value is positive."""
    torch.manual_seed(rank)
    u, v = (torch.linalg.qr(torch.randn(n, rank, dtype=torch.float64))[0] for n in (16, 24))
    for decay in (0.1, 0.5, 0.9, 1.0):
        values = decay ** torch.arange(rank, dtype=torch.float64)
        (made,) = orthogonalize_all([(u * values) @ v.T], damped=True)
        left = torch.linalg.multi_dot([u.T, made, v]).diagonal()
        shares = values / values.norm()
        assert bool((left[shares > 1e-10] > 0).all())
        assert not bool((left[shares > 0.02] < 0.08).any())


def test_what_all_gradients_agree_on_is_damped_and_noise_is_not() -> None:
    torch.manual_seed(0)
    noise = torch.randn(24, 24, dtype=torch.float64)
    left, right = torch.randn(2, 24, dtype=torch.float64)
    x = noise / noise.norm() + torch.outer(left, right) / (left.norm() * right.norm())
    (whole,), (damped,) = orthogonalize_all([x]), orthogonalize_all([x], damped=True)
    u, _, vh = torch.linalg.svd(x)
    shares = (u.T @ damped @ vh.T).diagonal() / (u.T @ whole @ vh.T).diagonal()
    assert float(shares[0]) < 0.6
    assert float(shares[16:].min()) > 0.75


@pytest.mark.parametrize("damped", [False, True])
def test_it_commutes_with_permutations(damped: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 8, dtype=torch.float64)
    rows, columns = torch.randperm(5), torch.randperm(8)
    (still,) = orthogonalize_all([x], damped=damped)
    (moved,) = orthogonalize_all([x[rows][:, columns]], damped=damped)
    assert torch.allclose(moved, still[rows][:, columns], atol=1e-12)


@pytest.mark.parametrize("damped", [False, True])
def test_bfloat16_serves_large_matrices_where_the_hardware_is_made_for_it(
    monkeypatch: pytest.MonkeyPatch, damped: bool
) -> None:
    monkeypatch.setattr(module, "_cpu_has_bfloat16", lambda: True)
    torch.manual_seed(0)
    large, small = torch.randn(200, 320), torch.randn(20, 32)
    fast, slow = (
        orthogonalize_all([large, small], fast=fast, damped=damped) for fast in (True, False)
    )
    assert not torch.equal(fast[0], slow[0])
    assert torch.equal(fast[1], slow[1])
    assert float((fast[0] - slow[0]).norm() / slow[0].norm()) < 0.05
    assert torch.equal(
        orthogonalize_all([large.double()], fast=True)[0], orthogonalize(large.double())
    )
