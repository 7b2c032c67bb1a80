"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

fcntl: Any = None  # Windows has none: nothing is locked there, and nothing swept away
with contextlib.suppress(ImportError):
    fcntl = importlib.import_module("fcntl")

_PREFIX, _SUFFIX = ".gmn-opt-", ".partial"
_NAME = re.compile(re.escape(_PREFIX) + "[0-9a-f]{32}" + re.escape(_SUFFIX))
#: A name that is taken or a link is an error, never followed; what Windows lacks counts 0.
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_LOOK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one step.

    If ``write`` fails (a full disk), the file that stood at ``path`` survives whole and nothing
    else stays behind. The temporary name is random and belongs to a file made for this write, so
    no file or link that waits under a guessed name is touched. What a killed process left, the next
    write to the folder removes. A link at ``path`` is replaced, what it points to stays.

    Raises OSError when nothing can be written there, or ``path`` is a pipe or a device.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_target(path)
    _sweep(path.parent)
    with _temporary(path.parent) as (temporary, handle):
        write(temporary)
        # the writer opened the name anew: it must still be the file that was made here
        if not os.path.samestat(os.lstat(temporary), os.fstat(handle)):
            raise OSError(errno.ESTALE, "Someone put another file in the place of", str(temporary))
        os.fsync(handle)
        os.replace(temporary, path)
        _sync_folder(path.parent)


def _check_target(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EINVAL, "Not an ordinary file, so it is not replaced", str(path))


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[Path, int]]:
    """A new empty file in ``folder`` and its open handle; gone at the end unless moved."""
    path = folder / f"{_PREFIX}{secrets.token_hex(16)}{_SUFFIX}"
    handle = os.open(path, _CREATE, 0o666)
    try:
        if fcntl is not None:  # says to other writers that this one is alive
            with contextlib.suppress(OSError):  # some network file systems know no locks
                # waits for one that looks at the new file at this moment, and lets go at once
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield path, handle
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove temporary files whose writers are dead; never fails."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_if_left(entry.path)


def _remove_if_left(path: str) -> None:
    handle = os.open(path, _LOOK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while the writer lives
        if os.fstat(handle).st_size:  # an empty one may wait for its writer's lock
            os.unlink(path)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where folders can be synced."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
