"""What all native calls share: dtypes, addresses of tensors, and work in parts on threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

DTYPES = {torch.float32: "float32", torch.float64: "float64"}
#: Numbers to work on that are worth handing to a further thread.
PART = 1 << 17


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None for no tensor."""
    return None if tensor is None else tensor.data_ptr()


def is_served(tensor: Tensor) -> bool:
    """Whether native code takes a tensor: of the CPU, of a dtype that it has."""
    return (
        tensor.dtype in DTYPES
        and tensor.device.type == "cpu"
        # subclasses stand for something else than the numbers at their data_ptr()
        and type(tensor) in (Tensor, torch.nn.Parameter)
    )


def in_parts(count: int, part: Callable[[int], None]) -> None:
    """Run ``part(0)`` to ``part(count - 1)``, each on a thread of its own."""
    others = range(1, count)
    # a call of ctypes lets go of the interpreter lock
    waiting = [_pool(os.getpid(), len(others)).submit(part, i) for i in others]
    part(0)
    for other in waiting:
        other.result()


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; those of its parent are not there after a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gmn-opt")
