"""Fashion-MNIST as the demo uses it: inputs, labels, and the order of the batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gmn_opt.data import load_bundled

DATASET = "fashion_mnist"
PROBE_IMAGES = 5_000


@dataclass(frozen=True)
class DemoData:
    """Network inputs ``[N, 1, 28, 28]`` and labels ``[N]`` of both splits."""

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor

    @property
    def probe(self) -> tuple[Tensor, Tensor]:
        """The fixed slice of the training images over which a training loss is measured."""
        return self.train_inputs[:PROBE_IMAGES], self.train_labels[:PROBE_IMAGES]


@cache
def load_demo_data() -> DemoData:
    """The bundled images, scaled by the training statistics; read once per process."""
    images = load_bundled(DATASET)
    train, test = images.normalized()
    return DemoData(
        _channels_last(train), images.train_labels, _channels_last(test), images.test_labels
    )


def batches(
    data: DemoData, batch_size: int, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """As many batches as asked for; the seed alone decides their order.

    Every epoch is a fresh permutation, whose last incomplete batch is dropped.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(data.train_labels)
    if not 1 <= batch_size <= count:
        raise ValueError(f"batch size must be 1 to {count}, got {batch_size}")
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(count, generator=generator)
        chosen, order = order[:batch_size], order[batch_size:]
        yield data.train_inputs[chosen], data.train_labels[chosen]


def _channels_last(images: Tensor) -> Tensor:
    """The same images in the memory layout that makes small convolutions faster on a CPU.

    With one channel, `Tensor.to` sees nothing to do, so the strides are set by hand.
    """
    _, channels, height, width = images.shape
    strides = (channels * height * width, 1, channels * width, channels)
    return torch.empty_strided(images.shape, strides, dtype=images.dtype).copy_(images)
