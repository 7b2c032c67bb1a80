"""The processes that meta-train together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class LostRankError(RuntimeError):
    """Another process of the run is gone, so no meta-gradient can be averaged any more."""


class World:
    """All processes of ``torch.distributed``'s default group, or this one alone.

    Every method but the constructor is a meeting: all processes must call it, in the same order.
    Raises LostRankError when one does not come.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, at every one of them; ``tensor`` may be overwritten."""
        if self.size > 1:
            self._meet(lambda: dist.all_reduce(tensor))
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, by rank, at every one of them."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        self._meet(lambda: dist.all_gather_object(found, value))
        return found

    def first(self, value: Any) -> Any:
        """What rank 0 gave, at every process."""
        return self.gather(value)[0]

    def _meet(self, call: Any) -> None:
        try:
            call()
        except RuntimeError as error:  # torch's own DistError is one
            raise LostRankError(
                f"Rank {self.rank} of {self.size} waited for the others in vain: {error}"
            ) from error


def same_device(device: torch.device, world: World) -> torch.device:
    """``cuda`` without a number is one device per process."""
    if str(device) == "cuda" and world.size > 1:
        return torch.device("cuda", world.rank % torch.cuda.device_count())
    return device
