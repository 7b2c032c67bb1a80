"""Which places of its input a convolution or a pool reads for a place of its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Windows:
    """A sliding window; every attribute has a number per spatial dim."""

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]

    def taps(
        self, place: Sequence[int], sizes: Sequence[int]
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Positions in the kernel, and in an input of these sizes; none in the padding."""
        for at in product(*(range(k) for k in self.kernel)):
            where = tuple(
                p * s - m + k * d
                for p, s, m, k, d in zip(
                    place, self.stride, self.padding, at, self.dilation, strict=True
                )
            )
            if all(0 <= i < size for i, size in zip(where, sizes, strict=True)):
                yield at, where
