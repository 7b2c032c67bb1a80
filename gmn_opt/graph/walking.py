"""What values are made of: the one place that knows containers, objects and functions."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set, ValuesView
from functools import partial
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

from torch import nn

from gmn_opt.kept import Kept

PLAIN = (str, bytes, int, float, complex, bool, type(None), type, range, ModuleType,
         BuiltinFunctionType, Kept)  # fmt: skip
"""Hold no tensors, or far too much, or what follows from the rest."""
Parts = Iterable[tuple[Any, Any]]


def parts_of(value: Any, ask: bool = False) -> Parts | None:
    """What a value directly holds, each part with its key or name; None if that is unknown.

    Nothing is consumed: iterators are unknown. ``ask`` mappings of any kind for their items, which
    may run code of theirs.
    """
    if isinstance(value, PLAIN):
        return ()
    if isinstance(value, (dict, MappingProxyType)) or (ask and isinstance(value, Mapping)):
        return [*value.items(), *attributes(value)]
    if isinstance(value, (list, tuple, deque)):
        return [*enumerate(value), *attributes(value)]
    if isinstance(value, (Set, ValuesView)):  # sets and views of mappings
        return [*enumerate(value), *attributes(value)]
    if isinstance(value, FunctionType):
        return [*_captured(value), *vars(value).items()]
    if isinstance(value, MethodType):
        return [("self", value.__self__), ("function", value.__func__)]
    if isinstance(value, partial):
        return [*enumerate(value.args), *value.keywords.items(), ("function", value.func)]
    if isinstance(value, CellType):
        return _inside(value)
    if isinstance(value, Iterator):
        return None
    return attributes(value) if hasattr(value, "__dict__") or _slots(type(value)) else None


def attributes(value: Any) -> list[tuple[str, Any]]:
    """The attributes of an object, in its ``__dict__`` or in slots."""
    found = list(getattr(value, "__dict__", {}).items())
    for name in _slots(type(value)):
        try:
            found.append((name, getattr(value, name)))
        except Exception:  # an unset slot
            continue
    return found


def referents(value: Any) -> list[tuple[Any, Any]]:
    """What an object of an unknown kind refers to, as the garbage collector sees it."""
    return [(n, x) for n, x in enumerate(gc.get_referents(value)) if not isinstance(x, PLAIN)]


def _slots(kind: type) -> list[str]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [n for n in names if n not in ("__dict__", "__weakref__")]


def _captured(function: FunctionType) -> list[tuple[str, Any]]:
    """What a function carries along: captured variables and defaults."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    found: list[tuple[str, Any]] = list(cells)
    found += [("default", x) for x in function.__defaults__ or ()]
    return found + list((function.__kwdefaults__ or {}).items())


def _inside(cell: CellType) -> list[tuple[str, Any]]:
    try:
        return [("", cell.cell_contents)]
    except ValueError:  # not filled yet
        return []


def foreign(kind: type) -> bool:
    """Whether a class comes neither from torch nor from Python's own modules."""
    home = kind.__module__.partition(".")[0]
    return home not in ("torch", "builtins", "collections", "abc", "typing", "functools")


def own_classes(model: nn.Module) -> set[type]:
    """The classes of a model's modules that are not torch's, with their bases."""
    kinds = {type(m) for m in model.modules()}
    return {base for kind in kinds for base in kind.__mro__ if foreign(base) and base is not object}
