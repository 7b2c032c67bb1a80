"""Kind 5: values that are computed out of sight of the trace."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from tests.graph.models.hidden.base import WIDTH, Case, Hidden


def in_thread(function: Callable[[], Tensor]) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(function().detach()))
    thread.start()
    thread.join()
    return found[0]


def unseen(how: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """The first hidden unit, read out of sight, scales all of them."""

    def body(m: Hidden, x: Tensor) -> Tensor:
        h = m.hidden(x)
        return m.c(h * how(m, h))

    return body


def by_dlpack(m: Any, h: Tensor) -> Tensor:
    capsule = torch.utils.dlpack.to_dlpack(h.detach())
    return torch.utils.dlpack.from_dlpack(capsule)[:, :1]


def by_pickle(m: Any, h: Tensor) -> Tensor:
    found: Tensor = pickle.loads(pickle.dumps(h.detach()))
    return found[:, :1]


def by_saving(m: Any, h: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(h.detach(), file)
    file.seek(0)
    found: Tensor = torch.load(file)
    return found[:, :1]


def by_set(m: Any, h: Tensor) -> Tensor:
    h = h.contiguous()
    return torch.empty(0, dtype=h.dtype).set_(h.untyped_storage(), 0, (len(h), 1), (WIDTH, 1))


def without_modes(m: Any, h: Tensor) -> Tensor:
    with _disable_current_modes():
        return h[:, :1].clone()


def written_in_thread(m: Any, h: Tensor) -> Tensor:
    out = torch.ones(len(h), 1)
    in_thread(lambda: out.copy_(h.detach()[:, :1]))
    return out


def by_pool(m: Any, h: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: h.detach()[:, :1] * 2).result()


def weight_in_thread(m: Any, h: Tensor) -> Tensor:
    return in_thread(lambda: m.c.weight[:1, :1])


UNSEEN = [
    Case("thread", unseen(lambda m, h: in_thread(lambda: h[:, :1] * 1)), 0),
    Case("scalar_in_thread", unseen(lambda m, h: in_thread(lambda: h[0, 0] * 1)), 0),
    Case("weight_in_thread", unseen(weight_in_thread), 0),
    Case("pool", unseen(by_pool), 0),
    Case("deepcopy", unseen(lambda m, h: copy.deepcopy(h.detach())[:, :1]), 1),
    Case("pickle", unseen(by_pickle), 0),
    Case("saving", unseen(by_saving), 0),
    Case("dlpack", unseen(by_dlpack), 0),
    Case("set", unseen(by_set), 0),
    Case("without_modes", unseen(without_modes), 0),
    Case("written_in_thread", unseen(written_in_thread), 0),
]
