"""Approximate orthogonalization of matrices by Newton-Schulz iteration.

The nearest (semi-)orthogonal matrix of X is ``U V^T`` of its singular value decomposition. The
quintic Newton-Schulz iteration of Muon (Jordan et al. 2024, with its coefficients) gets near it by
matrix products alone: ``X <- a X + b (X X^T) X + c (X X^T)^2 X``.

Every iterate is a polynomial in ``G = X X^T`` times the first X, so for a wide matrix we iterate on
the small square matrix and multiply by X once at the end (Gram form), which saves most of the work.
A matrix that is nearly square is iterated on itself: that is a fifth cheaper there. In bfloat16 the
Gram form squares the condition number away, so the plain iteration runs for all, on large matrices
and where the hardware multiplies bfloat16 fast.

An orthogonal matrix as a step goes as far along the one direction in which all gradients agree as
along those that are mostly noise. In the first the loss is steepest and curves most: at a step size
that all others can bear it goes up and down. *Damped*, a part is taken back there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-12
#: Iterations, as in Muon.
STEPS = 5
#: Damping takes ``DAMPED s - RAISED s^3`` from the orthogonalized singular value that was s, as a
#: share of the Frobenius norm: little from one below 0.05, half from one above 0.45. At least 0.09
#: is left where five iterations made 0.7, so no step turns against the gradients.
DAMPED, RAISED = 1.3, 0.8
#: Longer side by shorter side from which on the Gram form is cheaper.
WIDE = 1.4
#: Matrices whose smaller side has at least this many rows may be iterated on in bfloat16.
BFLOAT16_ROWS = 128


def orthogonalize(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """Push all singular values of ``matrix`` [..., m, n] towards 1 (between 0.7 and 1.2).

    Singular values below about ``3.4 ** -steps`` of the Frobenius norm stay small. A zero matrix
    stays zero. Commutes with orthogonal maps of rows and columns, permutations among them.
    """
    return orthogonalize_all([matrix], steps)[0]


def orthogonalize_all(
    matrices: Sequence[Tensor], steps: int = STEPS, fast: bool = False, damped: bool = False
) -> list[Tensor]:
    """:func:`orthogonalize` of every one of ``matrices``; those of one shape are batched.

    With ``damped`` the largest singular values are damped.

    With ``fast`` large float32 matrices are iterated on in bfloat16 where the hardware is made for
    it, as ``torch.optim.Muon`` does everywhere. Nothing can be differentiated through that.
    """
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    wide = [m if m.shape[-2] <= m.shape[-1] else m.mT for m in matrices]
    for i, matrix in enumerate(wide):
        by_shape[matrix.shape].append(i)
    found: list[Tensor] = [torch.empty(0)] * len(wide)
    for indices in by_shape.values():
        x = torch.stack([wide[i] for i in indices])
        m, n = x.shape[-2:]
        if fast and _is_served_in_bfloat16(x):
            made = _plain(_halved(x), steps, damped).to(x.dtype)
        else:
            made = (_plain if n < WIDE * m else _gram)(_normalized(x), steps, damped)
        for i, y in zip(indices, made.unbind(0), strict=True):
            found[i] = y if wide[i] is matrices[i] else y.mT
    return found


def _normalized(x: Tensor) -> Tensor:
    return x / (x.square().sum((-2, -1), keepdim=True) + _EPS**2).sqrt()


def _halved(x: Tensor) -> Tensor:
    """Normalized, in bfloat16: fewer passes, and nothing to differentiate."""
    size = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp_(min=_EPS)
    return x.bfloat16().div_(size.bfloat16())


def _gram(x: Tensor, steps: int, damped: bool) -> Tensor:
    """All iterations at once: a polynomial in the Gram matrix times ``x`` [..., m, n], m <= n."""
    m, n = x.shape[-2:]
    flat = x.reshape(-1, m, n)
    first = gram = torch.bmm(flat, flat.mT)
    eye = torch.eye(m, dtype=gram.dtype, device=gram.device)
    scaled_eye = _A * eye
    product = eye
    for step in range(steps):
        linear = torch.add(scaled_eye, gram, alpha=_B)
        p = torch.baddbmm(linear, gram, gram, alpha=_C)
        product = torch.bmm(p, product) if step else p
        if step + 1 < steps:
            gram = torch.bmm(torch.bmm(p, gram), p)
    if damped:
        product = torch.add(product - DAMPED * eye, first, alpha=RAISED)
    return torch.matmul(product, flat).view(x.shape)


def _plain(x: Tensor, steps: int, damped: bool) -> Tensor:
    """The iteration as it is written, on ``x`` [..., m, n], m <= n."""
    m, n = x.shape[-2:]
    first = flat = x.reshape(-1, m, n)
    first_gram = gram = torch.bmm(first, first.mT)
    for step in range(steps):
        if step:
            gram = torch.bmm(flat, flat.mT)
        p = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        flat = torch.baddbmm(flat, p, flat, beta=_A)
    if damped:
        eye = torch.eye(m, dtype=x.dtype, device=x.device)
        flat = torch.baddbmm(flat, torch.add(RAISED * first_gram, eye, alpha=-DAMPED), first)
    return flat.view(x.shape)


def _is_served_in_bfloat16(x: Tensor) -> bool:
    if x.dtype != torch.float32 or x.shape[-2] < BFLOAT16_ROWS:
        return False
    return torch.cuda.is_bf16_supported() if x.is_cuda else _cpu_has_bfloat16()


@cache
def _cpu_has_bfloat16() -> bool:
    checks = (getattr(torch.cpu, name, None) for name in
              ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))  # fmt: skip
    return any(bool(check()) for check in checks if check is not None)
