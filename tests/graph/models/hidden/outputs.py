"""Kind 1: tensors in odd containers."""

from __future__ import annotations

from collections import UserDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.graph.models.hidden.base import Case, Hidden


@dataclass(slots=True)
class Slotted:
    """A result without ``__dict__``."""

    h: Tensor
    y: Tensor


class ByHand:
    """Slots without a dataclass, below a base class that has its own."""

    __slots__ = ("pair",)

    def __init__(self, *pair: Tensor) -> None:
        self.pair = pair


class Lookup(Mapping[str, Tensor]):
    """A mapping that is no dict, and makes its items when asked."""

    def __init__(self, h: Tensor, y: Tensor) -> None:
        self.inner = (h, y)

    def __getitem__(self, key: str) -> Tensor:
        return self.inner["hy".index(key)]

    def __iter__(self) -> Iterator[str]:
        return iter("hy")

    def __len__(self) -> int:
        return 2


def wrapped(wrap: Callable[[Tensor, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    def body(m: Hidden, x: Tensor) -> Any:
        h = m.hidden(x)
        return wrap(h, m.c(h))

    return body


def on_itself(m: Hidden, x: Tensor) -> None:
    m.cache = m.hidden(x)


def in_a_list_of_its_own(m: Hidden, x: Tensor) -> Hidden:
    m.items.append(m.hidden(x))
    return m


def lazily(m: Hidden, x: Tensor) -> Iterator[Tensor]:
    yield m.hidden(x)
    yield m.c(m.hidden(x) * 2)


OUTPUTS = [
    Case("slots", wrapped(Slotted), 1, lambda m, o: [o.h, o.y]),
    Case("slots_by_hand", wrapped(ByHand), 1, lambda m, o: list(o.pair)),
    Case("deque", wrapped(lambda h, y: deque([h, y])), 1, lambda m, o: list(o)),
    Case("proxy", wrapped(lambda h, y: MappingProxyType({"h": h, "y": y})), 1,
         lambda m, o: list(o.values())),
    Case("view", wrapped(lambda h, y: {"h": h, "y": y}.values()), 1, lambda m, o: list(o)),
    Case("items", wrapped(lambda h, y: {"h": h, "y": y}.items()), 1,
         lambda m, o: [t for _, t in o]),
    Case("user_dict", wrapped(lambda h, y: UserDict(h=h, y=y)), 1, lambda m, o: list(o.values())),
    Case("mapping", wrapped(Lookup), 1, lambda m, o: list(o.values())),
    Case("iterator", wrapped(lambda h, y: map(torch.sin, iter([h, y]))), 1,
         lambda m, o: list(o)),
    Case("generator", lazily, 1, lambda m, o: list(o)),
    Case("closure", wrapped(lambda h, y: lambda: h), 1, lambda m, o: [o()]),
    Case("partial", wrapped(lambda h, y: partial(torch.add, h)), 1, lambda m, o: [o(0)]),
    Case("namespace", wrapped(lambda h, y: SimpleNamespace(y=y, more=[(h,)])), 1,
         lambda m, o: [o.more[0][0], o.y]),
    Case("array", wrapped(lambda h, y: {"h": h.detach().numpy()}), 1,
         lambda m, o: [torch.as_tensor(o["h"])]),
    Case("on_itself", on_itself, 1, lambda m, o: [m.cache]),
    Case("in_a_list", in_a_list_of_its_own, 1, lambda m, o: [m.items[-1]]),
]  # fmt: skip
