"""From ``package.module:name`` or ``file.py:name`` to the object."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from gmn_opt.cli.errors import fail


def locate(where: str, example: str) -> Any:
    """The object that a command line names; looks in the current folder first.

    Refuses with one message what is written otherwise, cannot be imported or does not exist.
    """
    home, colon, name = where.rpartition(":")
    if not colon or not home or not name:
        fail(f"not MODULE:FACTORY: {where!r}; an example is {example}")
    found: Any = _from_file(Path(home)) if home.endswith(".py") else _from_module(home)
    for part in name.split("."):
        if not hasattr(found, part):
            fail(f"{home} has no {name!r}")
        found = getattr(found, part)
    return found


def _from_module(home: str) -> Any:
    _look_in(Path.cwd())
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name and (home == error.name or home.startswith(f"{error.name}.")):
            fail(f"no module {home!r} here or among the installed packages")
        fail(f"importing {home} failed: {error}")
    except Exception as error:
        fail(f"importing {home} failed: {type(error).__name__}: {error}")


def _from_file(path: Path) -> Any:
    """The file as a module; it may import what lies in its folder."""
    if not path.is_file():
        fail(f"there is no file {path}")
    _look_in(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        fail(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        fail(f"importing {path} failed: {type(error).__name__}: {error}")
    return module


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def kind_of(value: object) -> str:
    """Its type with an article, for messages."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
