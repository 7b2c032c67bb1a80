"""Values that are worked out once for an object and kept with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
#: Where an owner keeps them.
NAME = "_kept"


def kept(owner: Any, key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` gave when it was first asked for under ``key``; it lives as long as ``owner``.

    The owner needs a ``__dict__``, and may be a frozen dataclass, whose equality does not see it.
    """
    values: dict[Hashable, T] = owner.__dict__.setdefault(NAME, {})
    if key not in values:
        values[key] = make()
    return values[key]
