"""How good predictions are: R², Kendall's tau, accuracy."""

from __future__ import annotations

import torch
from torch import Tensor


def _pair(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.as_tensor(predicted).detach().double().flatten()
    t = torch.as_tensor(true).detach().double().flatten()
    if p.shape != t.shape or len(p) < 2:
        raise ValueError(
            "Predictions and true values must be equally many, and at least two; received "
            f"{len(p)} and {len(t)}."
        )
    return p, t


def r2_score(predicted: Tensor, true: Tensor) -> float:
    """Share of the variance of ``true`` that is explained: 1 at best, 0 for the mean, or below.

    Raises ValueError for other lengths, and where ``true`` does not vary.
    """
    p, t = _pair(predicted, true)
    total = (t - t.mean()).square().sum()
    if total == 0:
        raise ValueError("R² needs true values that differ; all of them are the same.")
    return float(1 - (p - t).square().sum() / total)


def kendall_tau(predicted: Tensor, true: Tensor) -> float:
    """Kendall's tau-b: agreement of two orders, from -1 to 1, with ties accounted for.

    Takes n² memory in bits of rows, which is fine to tens of thousands.

    Raises ValueError for other lengths.
    """
    p, t = _pair(predicted, true)
    agree, ties_p, ties_t = 0.0, 0.0, 0.0
    n = len(p)
    for start in range(0, n, 512):
        a = (p[start : start + 512, None] - p[None]).sign()
        b = (t[start : start + 512, None] - t[None]).sign()
        agree += float((a * b).sum())
        ties_p += float(a.abs().sum())
        ties_t += float(b.abs().sum())
    if ties_p == 0 or ties_t == 0:
        return 0.0
    return agree / (ties_p * ties_t) ** 0.5


def accuracy(logits: Tensor, true: Tensor) -> float:
    """Share of rows of ``logits`` [n, classes] whose largest entry is the true class."""
    logits, true = torch.as_tensor(logits), torch.as_tensor(true)
    if logits.dim() != 2 or len(logits) != len(true) or not len(true):
        raise ValueError(
            f"Accuracy needs logits [n, classes] and n classes, received {list(logits.shape)} and "
            f"{list(true.shape)}."
        )
    return float((logits.argmax(1) == true).double().mean())
