"""Linear assignment, by scipy."""

from __future__ import annotations

import torch
from torch import Tensor

from gmn_opt.extras import needs


def check_scipy() -> None:
    """Raise MissingExtraError with the command that installs scipy, where it is missing."""
    with needs("align"):
        import scipy.optimize  # noqa: F401


def best_assignment(gain: Tensor) -> Tensor:
    """The permutation ``p`` that maximizes the sum of ``gain[i, p[i]]``; int64 ``[n]``.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    check_scipy()
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    return torch.from_numpy(columns).to(torch.int64)


__all__ = ["best_assignment", "check_scipy"]
