"""Kind 4: parameters that share memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.graph.models.hidden.base import WIDTH, Case, Hidden


def plain(m: Hidden, x: Tensor) -> Tensor:
    return m.c(m.hidden(x))


def with_ramp(m: Hidden, x: Tensor) -> Tensor:
    return m.c(m.b(torch.tanh(m.a(x)) * m.ramp))


def shares_bias(m: Hidden) -> None:
    m.b.bias.data = m.a.bias.data


def shares_transposed(m: Any) -> None:
    m.b = nn.Linear(WIDTH, WIDTH)
    m.c = nn.Linear(WIDTH, 4)
    m.c.weight.data = m.a.weight.data.T


def shares_with_buffer(m: Hidden) -> None:
    m.a.bias.data = m.ramp


def shares_a_part(m: Hidden) -> None:
    whole = torch.randn(WIDTH + 1)
    m.a.bias.data, m.b.bias.data = whole[:-1], whole[1:]


def shares_nothing(m: Hidden) -> None:
    whole = torch.randn(2 * WIDTH)
    m.a.bias.data, m.b.bias.data = whole[:WIDTH], whole[WIDTH:]


def shares_with_attribute(m: Hidden) -> None:
    m.cache = m.c.weight.data


def by_attribute(m: Hidden, x: Tensor) -> Tensor:
    return m.hidden(x) @ m.cache.T


MEMORY = [
    Case("shares_bias", plain, 1, prepare=shares_bias),
    Case("shares_transposed", plain, 1, prepare=shares_transposed),
    Case("shares_with_buffer", with_ramp, 1, prepare=shares_with_buffer),
    Case("shares_a_part", plain, 0, prepare=shares_a_part),
    Case("shares_nothing", plain, 2, prepare=shares_nothing),
    Case("shares_with_attribute", by_attribute, 2, prepare=shares_with_attribute),
]
