"""Devices and memory, as commands and experiments ask for them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ValueError unless ``name`` is known."""
    if name not in known:
        raise ValueError(f"Unknown {what} {name!r}; choose one of {', '.join(known)}.")


def choose_device(name: str) -> torch.device:
    """``"auto"`` takes CUDA where there is one.

    Raises ValueError for any other name, and if CUDA is asked for in vain.
    """
    import torch

    if name.split(":")[0] not in ("auto", "cpu", "cuda"):
        raise ValueError(f"Unknown device {name!r}; choose cpu, cuda or auto.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name} was asked for, but torch sees no CUDA device; use cpu.")
    return torch.device(name)


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for the next allocation instead of returning them.

    An unroll allocates and frees thousands of blocks of the same few sizes; giving each back to
    the system costs page faults. Does nothing where glibc is not the C library.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 1 << 30)
    except (OSError, AttributeError):
        return
