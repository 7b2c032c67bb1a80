"""Kind 3: what only one of training and evaluation does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.graph.models.hidden.base import WIDTH, Case, Hidden


def auxiliary_head(m: Any, x: Tensor) -> Any:
    h = m.hidden(x)
    return (m.c(h), m.extra(h * m.ramp)) if m.training else m.c(h)


def ramp_in_training(m: Any, x: Tensor) -> Tensor:
    h = m.hidden(x)
    return m.c(h * m.ramp) if m.training else m.c(h)


def head_in_evaluation(m: Any, x: Tensor) -> Any:
    h = m.hidden(x)
    return m.c(h) if m.training else (m.c(h), m.extra(h.flip(-1)))


def auxiliary_needs_two(m: Any, x: Tensor) -> Any:
    h = m.hidden(x)
    if not m.training:
        return m.c(h)
    return m.c(h), m.extra(m.norm(h) * m.ramp)


def seeded_in_training(m: Any, x: Tensor) -> Tensor:
    """In training mode, noise by which hidden neurons can be told apart for ever."""
    h = m.hidden(x)
    if m.training:
        h = h * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3), dtype=h.dtype)
    return m.c(h)


def reseeded_in_training(m: Any, x: Tensor) -> Tensor:
    h = m.hidden(x)
    if m.training:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            h = h * torch.randn(WIDTH, dtype=h.dtype)
    return m.c(h)


def state_set_in_training(m: Any, x: Tensor) -> Tensor:
    h = m.hidden(x)
    if m.training:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(m.box["state"])
            h = h * torch.rand(WIDTH, dtype=h.dtype)
    return m.c(h)


def with_random_state(m: Hidden) -> None:
    m.box["state"] = torch.Generator().manual_seed(5).get_state()


def dropout_reseeded(m: Any, x: Tensor) -> Tensor:
    """A mask that is the same in every pass."""
    h = m.hidden(x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        mask = nn.functional.dropout(torch.ones_like(h[0]), 0.5, m.training)
    return m.c(h * mask)


def with_extra(m: Any) -> None:
    m.extra = nn.Linear(WIDTH, 2)
    m.norm = nn.BatchNorm1d(WIDTH)


def both(m: Any, out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, tuple) else [out]


MODES = [
    Case("auxiliary_head", auxiliary_head, 1, both, with_extra),
    Case("ramp_in_training", ramp_in_training, 1, both),
    Case("head_in_evaluation", head_in_evaluation, 1, both, with_extra, train=True),
    Case("seeded_in_training", seeded_in_training, 1),
    Case("reseeded_in_training", reseeded_in_training, 1),
    Case("state_set_in_training", state_set_in_training, 1, prepare=with_random_state),
    Case("dropout_reseeded", dropout_reseeded, 1),
    Case("dropout_reseeded_now", dropout_reseeded, 1, train=True),
    Case("auxiliary_needs_two", auxiliary_needs_two, 0, both, with_extra, batch=1),
]
