"""Frozen dataclasses as plain values, for JSON, and back.

What a field holds follows from its annotation: dataclasses become dicts, tuples lists, and a class
out of several, say an estimator, a dict that names it under a tag (see :class:`Choice`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

C = TypeVar("C", bound=type)
_CHOICES: dict[Any, Choice] = {}


class Choice:
    """Dataclasses of one sort, which plain values tell apart by a tag.

    Args:
        sort: The annotation of fields that hold one of them: a base class or a union.
        tag: Key of the name, such as ``"kind"``.
        what: For messages, such as ``"estimator"``.
        kinds: Classes by name.
    """

    def __init__(self, sort: Any, tag: str, what: str, kinds: Mapping[str, type]) -> None:
        self.tag, self.what, self.kinds = tag, what, dict(kinds)
        _CHOICES[sort] = self

    def encode(self, value: Any) -> dict[str, Any]:
        """All fields, and the name under the tag."""
        names = (name for name, kind in self.kinds.items() if type(value) is kind)
        return {self.tag: next(names, type(value).__name__), **encode(value)}

    def decode(self, values: Any) -> Any:
        """The inverse of `encode`; raises ValueError for another name, and as :func:`decode`."""
        name = values.get(self.tag) if isinstance(values, Mapping) else None
        if name not in self.kinds:
            raise ValueError(
                f"Unknown {self.what} {values!r}; {self.tag!r} is one of {sorted(self.kinds)}."
            )
        return decode(self.kinds[name], {k: v for k, v in values.items() if k != self.tag})


def encode(value: Any, sort: Any = None) -> Any:
    """A dataclass as a dict, tuples and lists as lists; ``sort`` is the field's annotation."""
    if sort in _CHOICES:
        return _CHOICES[sort].encode(value)
    if is_dataclass(value):
        sorts = get_type_hints(type(value))
        return {f.name: encode(getattr(value, f.name), sorts[f.name]) for f in fields(value)}
    if isinstance(value, list | tuple):
        return [encode(v, _inner(sort)) for v in value]
    return value


def decode(sort: Any, values: Any) -> Any:
    """The inverse of :func:`encode`; values that are no dicts or lists are taken as they are.

    Raises ValueError for fields that ``sort`` does not have, and what its constructor raises.
    """
    if sort in _CHOICES:
        return _CHOICES[sort].decode(values) if isinstance(values, Mapping) else values
    if isinstance(values, list | tuple):
        return tuple(decode(_inner(sort), v) for v in values)
    kind = next((s for s in (sort, *get_args(sort)) if is_dataclass(s)), None)
    if kind is None or not isinstance(values, Mapping):
        return values
    sorts, known = get_type_hints(kind), {f.name for f in fields(kind)}
    if unknown := sorted(set(values) - known):
        name = getattr(kind, "__name__", kind)
        raise ValueError(f"Unknown settings {unknown} of {name}; known ones are {sorted(known)}.")
    return kind(**{k: decode(sorts[k], v) for k, v in values.items()})  # type: ignore[operator]


def _inner(sort: Any) -> Any:
    """The annotation of the members of a list or tuple."""
    return next((s for s in get_args(sort) if s not in (Ellipsis, NoneType)), None)


def by_name(kinds: Iterable[C]) -> dict[str, C]:
    """Classes by their names."""
    return {kind.__name__: kind for kind in kinds}
