"""Settings on the command line: ``--set NAME=VALUE`` changes a field of a frozen config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from types import NoneType
from typing import Any, get_args, get_type_hints


def parsed(text: str) -> tuple[str, Any]:
    """``"lr=3e-3"`` as name and value; raises ValueError for what is no JSON value."""
    name, equals, value = text.partition("=")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError as error:
        what = f"the value {value!r} is no JSON" if equals else "there is no ="
        raise ValueError(f"--set takes NAME=VALUE such as lr=0.001; in {text!r} {what}.") from error


def with_settings(configs: Sequence[Any], changes: Sequence[str]) -> list[Any]:
    """The configs with the fields changed that ``changes`` name.

    Every name must be a field of exactly one config, and every value of its kind: raises
    ValueError otherwise.
    """
    out = list(configs)
    for name, value in map(parsed, changes):
        owners = [i for i, c in enumerate(out) if name in {f.name for f in fields(c)}]
        if len(owners) != 1:
            known = sorted({f.name for c in out for f in fields(c)})
            raise ValueError(f"--set knows no {name!r}; there are {', '.join(known)}.")
        before = getattr(out[owners[0]], name)
        nothing = value is None and NoneType in get_args(get_type_hints(type(out[owners[0]]))[name])
        if before is not None and not nothing and not _alike(before, value):
            raise ValueError(
                f"--set {name}: expected a value like {json.dumps(before, default=str)}, received "
                f"{json.dumps(value)}."
            )
        fitting = tuple(value) if isinstance(before, tuple) and not nothing else value
        out[owners[0]] = replace(out[owners[0]], **{name: fitting})
    return out


def _alike(before: Any, value: Any) -> bool:
    if isinstance(before, float) and type(value) is int:
        return True
    if isinstance(before, tuple):
        return (
            isinstance(value, list)
            and len(value) == len(before)
            and all(map(_alike, before, value))
        )
    return type(before) is type(value)
