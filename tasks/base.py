"""What all tasks on data share: a spec made of fields, and fixed examples to be judged on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmn_opt.meta import Batch, Split, Task


class DataTask(Task):
    """A task that is a frozen dataclass; its fields describe it completely."""

    #: What specs call tasks of this class.
    family: ClassVar[str]

    def spec(self) -> dict[str, Any]:
        """All fields, and the family."""
        return {"task": self.family, **asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """At most ``limit`` fixed examples for one of the networks: ``[limit, ...]``.

        ``network`` is its number; it only matters where every network has data of its own.
        """

    def accuracy(self, output: Tensor, batch: Batch) -> Tensor | None:
        """Share of right answers where there are classes, else None."""
        return None


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of the shape of ``like``."""
    return torch.randn(like.shape, generator=generator)


def right(output: Tensor, labels: Tensor) -> Tensor:
    """Share of rows of ``output`` ``[..., classes]`` that are largest at their label."""
    return (output.argmax(-1) == labels).float().mean()
