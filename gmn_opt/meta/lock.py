"""One run per folder: a lock that goes with its process, and notices when the folder does."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any

fcntl: Any = None  # Windows has none: nothing is locked there
with contextlib.suppress(ImportError):
    fcntl = importlib.import_module("fcntl")

NAME = ".lock"


class FolderGoneError(OSError):
    """The folder of a run was removed, or exchanged for another, while the run went on."""


class FolderLock:
    """The right to write to ``folder``, which is made if need be, until :meth:`release`.

    Raises ValueError when another run has it, OSError when the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        self._take()
        while not self._stands():  # the one before took its file away in between
            os.close(self._handle)
            self._take()

    def _take(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._handle = os.open(self.path, flags, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._handle)
            raise ValueError(
                f"Another run is writing to {self.folder}. Wait until it is done, stop it, or name "
                "another folder by --out."
            ) from error

    def _stands(self) -> bool:
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self._handle))
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Raise FolderGoneError unless the folder is still the one that was locked."""
        if not self._stands():
            raise FolderGoneError(
                f"The folder {self.folder} of this run has vanished, or was replaced. What it held "
                "is gone with it; nothing is written to another in its place."
            )

    def release(self) -> None:
        """Let others write."""
        if self._stands():
            self.path.unlink()
        os.close(self._handle)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
