"""Checkpoints of a meta-training run, written so that a crash loses nothing."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from gmn_opt.weights.atomic import write_atomically

__all__ = ["load_checkpoint", "save_checkpoint", "write_atomically"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save ``state`` (tensors and plain values) at ``path``, whole or not at all.

    Raises OSError when it cannot be written; what stood at ``path`` is kept then.
    """
    # torch's own writer hides the reason of a failed write, a full disk for example
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved at ``path``; only tensors and plain values are ever unpickled.

    Raises ValueError when there is no whole checkpoint at ``path``.
    """
    if not path.is_file():
        raise ValueError(
            f"No checkpoint at {path}. Start without --resume, or name the folder of a run."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole checkpoint ({error}). Delete it and start again, or restore "
            "a copy."
        ) from error
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} holds a {type(state).__name__}, not the state of a run. Name the folder of "
            "a meta-training run."
        )
    return state
