"""What all native calls share: dtypes, addresses of tensors, and work in parts on threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
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


def is_hidden(like: Tensor) -> bool:
    """Whether transforms of ``torch.func`` or autocast are at work: they cannot see native code."""
    return torch._C._are_functorch_transforms_active() or torch.is_autocast_enabled(
        like.device.type
    )


def in_parts(count: int, part: Callable[[int], None]) -> None:
    """Run ``part(0)`` to ``part(count - 1)``, each on a thread of its own."""
    # a call of ctypes lets go of the interpreter lock
    waiting = [_pool(os.getpid()).submit(part, i) for i in range(1, count)]
    try:
        part(0)
    finally:
        wait(waiting)  # they work on memory that the caller owns
    for other in waiting:
        other.result()


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process, begun when they are needed and kept, as is what they keep.

    Those of its parent are not there after a fork.
    """
    return ThreadPoolExecutor(max(1, os.cpu_count() or 1), thread_name_prefix="gmn-opt")
