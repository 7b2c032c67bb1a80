"""What networks are generated for: a class, numbers, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: What a caller may ask for: a class or one per network, numbers or a row per network.
Condition = int | float | Sequence[int] | Sequence[float] | Tensor | None


@dataclass(frozen=True)
class Conditions:
    """How conditions become numbers; the last is 1 where there is a condition, else all are 0.

    Attributes:
        classes: The classes there are; empty for none.
        mean, deviation: Of conditions that are numbers; empty for none.
    """

    classes: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @staticmethod
    def of(given: Tensor | None, count: int) -> Conditions:
        """Of training networks: int64 ``[N]`` classes, floating point ``[N]`` or ``[N, k]``.

        Raises ValueError for other shapes, and values that are not finite.
        """
        if given is None:
            return Conditions()
        if given.dim() not in (1, 2) or len(given) != count or not given.numel():
            raise ValueError(
                f"Expected a condition for each of {count} networks, received {list(given.shape)}."
            )
        if not given.is_floating_point():
            if given.dim() != 1:
                raise ValueError(f"Classes must be [N], received {list(given.shape)}.")
            return Conditions(tuple(sorted(set(given.tolist()))))
        rows = given.double().view(count, -1)
        if not bool(rows.isfinite().all()):
            raise ValueError("The conditions hold NaN or infinity.")
        deviation = rows.std(0, correction=0).clamp_min(1e-8)
        return Conditions((), tuple(rows.mean(0).tolist()), tuple(deviation.tolist()))

    @property
    def size(self) -> int:
        """Numbers per network."""
        kinds = len(self.classes) + len(self.mean)
        return kinds + 1 if kinds else 0

    def encode(self, given: Condition, count: int) -> Tensor:
        """``[count, size]``, float32.

        Raises ValueError for an unknown class, another number of numbers, or a condition
        where none was learned.
        """
        if given is None or not self.size:
            if given is not None:
                raise ValueError(
                    f"This generator was fitted without conditions, received {given!r}. Leave "
                    "condition out, or fit with conditions=."
                )
            return torch.zeros(count, self.size)
        values = torch.as_tensor(given)
        present = torch.ones(count, 1)
        if self.classes:
            return torch.cat([self._one_hot(values, count), present], 1)
        k = len(self.mean)
        rows = values.double()
        rows = rows.view(1, k) if rows.numel() == k and rows.dim() < 2 else rows
        rows = rows.view(-1, 1) if k == 1 and rows.dim() == 1 else rows
        if rows.dim() != 2 or rows.shape[1] != k or len(rows) not in (1, count):
            raise ValueError(
                f"Expected {k} numbers for all networks, or for each of {count}, received "
                f"{list(values.shape)}."
            )
        if not bool(rows.isfinite().all()):
            raise ValueError(f"The condition {given!r} is not finite.")
        known = (rows - torch.tensor(self.mean).double()) / torch.tensor(self.deviation).double()
        return torch.cat([known.float().expand(count, k), present], 1)

    def _one_hot(self, values: Tensor, count: int) -> Tensor:
        if values.is_floating_point() or values.numel() not in (1, count):
            raise ValueError(
                f"Expected one class for all networks, or for each of {count}, received {values}."
            )
        known = torch.tensor(self.classes)
        hits = values.view(-1, 1) == known
        unknown = values.view(-1)[~hits.any(1)]
        if len(unknown):
            raise ValueError(
                f"Unknown class {int(unknown[0])}; this generator knows {list(self.classes)}."
            )
        return hits.float().expand(count, len(known))


__all__ = ["Condition", "Conditions"]
