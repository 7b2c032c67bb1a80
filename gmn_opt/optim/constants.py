"""Numbers that depend on a layout alone, made once per layout, dtype and device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from gmn_opt.eager import eagerly
from gmn_opt.kept import kept

if TYPE_CHECKING:
    from gmn_opt.metanet import BlockedGraph

C = TypeVar("C")


def layout_constants(
    layout: BlockedGraph, like: Tensor, make: Callable[[BlockedGraph, Tensor], C]
) -> C:
    """``make(layout, like)``, kept on ``layout`` for every dtype and device of ``like``.

    ``make`` may read only the dtype and the device of its second argument, an empty tensor.
    """
    key = make, like.dtype, like.device
    return kept(layout, key, partial(_made, layout, like.dtype, like.device, make))


@eagerly()
def _made(
    layout: BlockedGraph,
    dtype: torch.dtype,
    device: torch.device,
    make: Callable[[BlockedGraph, Tensor], C],
) -> C:
    # tensors made in inference mode could not be used where gradients are recorded
    with torch.inference_mode(False), torch.no_grad():
        return make(layout, torch.empty(0, dtype=dtype, device=device))
