"""Numbers that depend on a layout alone, made once per layout, dtype and device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gmn_opt.metanet import BlockedGraph

_CACHE = "_rule_constants"
C = TypeVar("C")


def layout_constants(
    layout: BlockedGraph, like: Tensor, make: Callable[[BlockedGraph, Tensor], C]
) -> C:
    """``make(layout, like)``, kept on ``layout`` for every dtype and device of ``like``.

    ``make`` may read only the dtype and the device of its second argument, an empty tensor.
    """
    kept: dict[Any, Any] | None = layout.__dict__.get(_CACHE)
    made = None if kept is None else kept.get((make, like.dtype, like.device))
    return _made(layout, like, make) if made is None else made


@torch.compiler.disable
def _made(layout: BlockedGraph, like: Tensor, make: Callable[[BlockedGraph, Tensor], C]) -> C:
    # tensors made in inference mode could not be used where gradients are recorded
    with torch.inference_mode(False), torch.no_grad():
        made = make(layout, torch.empty(0, dtype=like.dtype, device=like.device))
    layout.__dict__.setdefault(_CACHE, {})[make, like.dtype, like.device] = made
    return made
