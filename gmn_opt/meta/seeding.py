"""Random draws from PyTorch's global generators that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, global draws on the CPU (and on ``device``) start from ``seed``.

    Outside nothing has changed. ``torch.manual_seed`` would do the same, but it also touches every
    device and formats a stack trace on each call.
    """
    on_cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield
