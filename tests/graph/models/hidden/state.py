"""Kind 2: state that a trace could leave in the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tests.graph.models.hidden.base import WIDTH, Case, Hidden


def cached(m: Hidden, x: Tensor) -> Tensor:
    if m.cache is None:
        m.cache = 2 * m.c.weight
    return m.hidden(x) @ m.cache.T


def cached_in_dict(m: Hidden, x: Tensor) -> Tensor:
    return m.hidden(x) @ m.box.setdefault("c", 2 * m.c.weight).T


def cached_in_list(m: Hidden, x: Tensor) -> Tensor:
    if not m.items:
        m.items.append({"deep": [m.c.weight.sin()]})
    return m.hidden(x) @ m.items[0]["deep"][0].T


def cached_on_parameter(m: Hidden, x: Tensor) -> Tensor:
    weight: Any = m.c.weight
    if not hasattr(weight, "doubled"):
        weight.doubled = 2 * weight
    return m.hidden(x) @ weight.doubled.T


class Store:
    """An object that is no module, with slots and a class attribute."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None


def cached_in_object(m: Hidden, x: Tensor) -> Tensor:
    if m.cache.value is None:
        m.cache.value = m.c.weight * 3
    return m.hidden(x) @ m.cache.value.T


def with_store(m: Hidden) -> None:
    m.cache = Store()


class ByClass(Hidden):
    """Keeps what it makes in its class, and in a method that remembers."""

    shared: Any = None

    @lru_cache  # noqa: B019 - the trap
    def doubled(self) -> Tensor:
        return 2 * self.c.weight


def cached_in_class(m: Hidden, x: Tensor) -> Tensor:
    if ByClass.shared is None:
        ByClass.shared = m.c.weight * 2
    return m.hidden(x) @ ByClass.shared.T


def cached_by_method(m: Any, x: Tensor) -> Tensor:
    return m.hidden(x) @ m.doubled().T


def becomes(kind: type) -> Callable[[Any], None]:
    def prepare(m: Any) -> None:
        kind.shared = None  # type: ignore[attr-defined]
        m.__class__ = kind

    return prepare


def buffer_registered(m: Hidden, x: Tensor) -> Tensor:
    if "late" not in dict(m.named_buffers()):
        m.register_buffer("late", m.c.weight.detach().clone())
    return m.hidden(x) @ m.late.T  # type: ignore[operator]


def initialized_by_data(m: Hidden, x: Tensor) -> Tensor:
    h = m.b(torch.tanh(m.a(x)))
    if not m.ready:
        with torch.no_grad():
            m.b.bias.sub_(h.mean(0))
        m.ready = True
        h = m.b(torch.tanh(m.a(x)))
    return m.c(torch.tanh(h))


def membrane(m: Hidden, x: Tensor) -> Tensor:
    h = m.a(x)
    m.cache = h if m.cache is None else 0.9 * m.cache + h
    spikes = (m.cache > 0).to(h.dtype)
    return m.c(spikes * m.cache)


def membrane_in_place(m: Hidden, x: Tensor) -> Tensor:
    m.box["v"].mul_(0.9).add_(x.sum())
    return m.c(m.hidden(x)) * m.box["v"]


def with_membrane(m: Hidden) -> None:
    m.box["v"] = torch.ones(1)


def observer(m: Hidden, x: Tensor) -> Tensor:
    h = m.hidden(x)
    if m.cache.numel() == 0:
        m.cache.resize_(WIDTH)
        m.cache.copy_(h.detach().amax(0))
    return m.c(h * m.cache.clamp_min(0.1))


def with_observer(m: Hidden) -> None:
    m.cache = torch.empty(0)


def alternating(m: Hidden, x: Tensor) -> Tensor:
    m.ready = not m.ready
    return m.c(m.hidden(x)) if m.ready else m.c(m.hidden(x) * m.ramp)


def parameter_exchanged(m: Hidden, x: Tensor) -> Tensor:
    if not m.ready:
        m.c.weight = nn.Parameter(m.c.weight.detach() * 2)
        m.a.weight.requires_grad_(False)
        m.ready = True
    return m.c(m.hidden(x))


STATE = [
    Case("cached", cached, 2),
    Case("cached_in_dict", cached_in_dict, 2),
    Case("cached_in_list", cached_in_list, 2),
    Case("cached_on_parameter", cached_on_parameter, 2),
    Case("cached_in_object", cached_in_object, 2, prepare=with_store),
    Case("cached_in_class", cached_in_class, 2, prepare=becomes(ByClass)),
    Case("cached_by_method", cached_by_method, 2, prepare=becomes(ByClass)),
    Case("buffer_registered", buffer_registered, 2),
    Case("initialized_by_data", initialized_by_data, 2),
    Case("membrane", membrane, 1),
    Case("membrane_in_place", membrane_in_place, 2, prepare=with_membrane),
    Case("observer", observer, 1, prepare=with_observer),
    Case("alternating", alternating, 1),
    Case("parameter_exchanged", parameter_exchanged, 0),
]
