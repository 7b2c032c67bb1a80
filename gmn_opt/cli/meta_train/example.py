"""What `gmn-opt meta-train` can be tried on, and a pattern for tasks of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from gmn_opt.data import load_bundled
from gmn_opt.meta import Batch, Split, Task


class Digits(Task):
    """An MLP that reads handwritten digits of 14x14 pixels.

    Inner training sees the first half of the training images; what judges it, the second.

    Args:
        width: Of its hidden layer.
    """

    def __init__(self, width: int = 24) -> None:
        self.width = width

    @property
    def name(self) -> str:
        """See `Task.name`."""
        return f"digits-{self.width}"

    def build(self) -> nn.Module:
        """A network with fresh weights."""
        return nn.Sequential(
            nn.Flatten(), nn.Linear(196, self.width), nn.ReLU(), nn.Linear(self.width, 10)
        )

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two images."""
        return (torch.zeros(2, 1, 14, 14),)

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor]:
        data = load_bundled("mnist")
        images, _ = data.normalized()
        return avg_pool2d(images, 2), data.train_labels

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """Images ``x`` ``[count, 32, 1, 14, 14]`` and labels ``y`` ``[count, 32]``."""
        images, labels = self._data
        half = len(images) // 2
        first = 0 if split == "inner_train" else half
        at = first + torch.randint(half, (count, 32), generator=generator)
        return {"x": images[at], "y": labels[at]}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Cross entropy."""
        return cross_entropy(output, batch["y"])


def digits() -> Sequence[Task]:
    """Two widths of it."""
    return [Digits(16), Digits(24)]
