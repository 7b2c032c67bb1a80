"""Approximate orthogonalization of matrices by Newton-Schulz iteration, in Gram form.

The nearest (semi-)orthogonal matrix of X is ``U V^T`` of its singular value decomposition. The
quintic Newton-Schulz iteration of Muon (Jordan et al. 2024, with its coefficients) gets near it by
matrix products alone: ``X <- a X + b (X X^T) X + c (X X^T)^2 X``. Every iterate is a polynomial
in ``G = X X^T`` times the first X, so we iterate on the small square matrix and multiply by X once
at the end. For a wide matrix this saves most of the work.
"""

from __future__ import annotations

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPS = 1e-12


def orthogonalize(matrix: Tensor, steps: int = 4) -> Tensor:
    """Push all singular values of ``matrix`` [..., m, n] towards one another; RMS 1 per matrix.

    Singular values below about ``3.4 ** -steps`` of the Frobenius norm stay small. A zero matrix
    stays zero. Commutes with orthogonal maps of rows and columns, permutations among them.
    """
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    m, n = wide.shape[-2:]
    x = wide.reshape(-1, m, n)
    x = x / (x.square().sum((-2, -1), keepdim=True) + _EPS**2).sqrt()
    if m > 1:
        a, b, c = _COEFFICIENTS
        gram = torch.bmm(x, x.mT)
        scaled_eye = a * torch.eye(m, dtype=gram.dtype, device=gram.device)
        product = None
        for step in range(steps):
            linear = torch.add(scaled_eye, gram, alpha=b)
            p = torch.baddbmm(linear, gram, gram, alpha=c)
            product = p if product is None else torch.bmm(p, product)
            if step + 1 < steps:
                gram = torch.bmm(torch.bmm(p, gram), p)
        assert product is not None
        x = torch.bmm(product, x)
    x = x / (x.square().mean((-2, -1), keepdim=True) + _EPS**2).sqrt()
    x = x.view(wide.shape)
    return x if wide is matrix else x.mT
