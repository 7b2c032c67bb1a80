"""Worker processes: how many, and what each does first."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

import torch


def usable_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def begin_worker(threads: int = 1) -> None:
    """Torch's threads; Ctrl-C is the parent's to handle, and a worker does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, killed without a chance to say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
