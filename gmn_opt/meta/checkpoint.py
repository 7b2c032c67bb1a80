"""Files that a meta-training run leaves behind, written so that a crash loses nothing."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one step.

    If ``write`` fails (a full disk, a kill), the file that stood at ``path`` survives whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save a trainer's ``state_dict`` at ``path``."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved at ``path``; only tensors and plain values are ever unpickled.

    Raises ValueError when there is no whole checkpoint at ``path``.
    """
    if not path.is_file():
        raise ValueError(
            f"No checkpoint at {path}. Start without --resume, or name the folder of a run."
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole checkpoint ({error}). Delete it and start again, or restore "
            "a copy."
        ) from error
    return state
