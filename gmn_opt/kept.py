"""Values that are worked out once for an object and kept with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Kept(dict[Hashable, Any]):
    """The values of one owner. A copy of the owner begins without, and makes its own.

    So nobody who copies an owner and changes the numbers in the copy changes what was worked out
    from others: native code trusts it.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        """None of them."""
        return Kept()


#: Where an owner keeps them.
NAME = "_kept"


def kept(owner: Any, key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` gave when it was first asked for under ``key``; it lives as long as ``owner``.

    The owner needs a ``__dict__``, and may be a frozen dataclass, whose equality does not see it.
    """
    values: Kept = owner.__dict__.setdefault(NAME, Kept())
    if key not in values:
        values[key] = make()
    found: T = values[key]
    return found
