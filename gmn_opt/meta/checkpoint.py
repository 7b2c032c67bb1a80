"""Checkpoints of a meta-training run, written so that a crash loses nothing."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from gmn_opt.weights.atomic import write_atomically

__all__ = ["load_checkpoint", "save_checkpoint", "write_atomically"]

#: What stands behind the bytes of torch.save: this, and the SHA-256 of all bytes before.
_MARK = b"gmn-opt checkpoint sha256:"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save ``state`` (tensors and plain values) at ``path``, whole or not at all.

    A digest of all bytes stands at the end: torch's own format notices few damages.

    Raises OSError when it cannot be written; what stood at ``path`` is kept then.
    """
    # torch's own writer hides the reason of a failed write, a full disk for example
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
    buffer.write(_MARK + digest)
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
        state = torch.load(io.BytesIO(_content(path)), map_location="cpu", weights_only=True)
    except (
        *(RuntimeError, EOFError, KeyError, ValueError, AttributeError, TypeError),
        *(IndexError, pickle.UnpicklingError, OSError),
    ) as error:
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


def _content(path: Path) -> bytes:
    """What torch.save wrote; raises ValueError unless the digest behind it is right."""
    whole = path.read_bytes()
    end = len(_MARK) + 64
    content, mark, digest = whole[:-end], whole[-end:-64], whole[-64:]
    if whole[-22:-18] == b"PK\x05\x06":
        return whole  # written before there were digests, and not cut off
    if mark != _MARK:
        raise ValueError("it does not end with its digest: cut off, damaged, or of another version")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its bytes have another digest than when they were written: damaged")
    return content
