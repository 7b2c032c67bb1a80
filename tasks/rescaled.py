"""The same network in other units: an augmentation that makes learned rules robust to scale.

Celo (Moudgil et al. 2025, arXiv 2501.12670), after Metz et al. 2022 (arXiv 2211.09760): instead of
w with loss f(w), train w / s with loss f(s * w). The function and its initial value stay, the
lengths of steps and gradients do not. Theirs draw one s per task or tensor over several decades.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gmn_opt.meta import Batch, Split
from tasks.base import DataTask


class Rescaled(nn.Module):
    """A network whose parameters are those of ``network`` divided by one scale each."""

    def __init__(self, network: nn.Module, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        named = list(network.named_parameters())
        if len(scales) == 1:
            scales = scales * len(named)
        if len(scales) != len(named):
            raise ValueError(
                f"There are {len(scales)} scales for {len(named)} parameters: give one for each, "
                "or one for all."
            )
        self.scales = {name: s for (name, _), s in zip(named, scales, strict=True)}
        with torch.no_grad():
            for name, p in named:
                p.div_(self.scales[name])

    def forward(self, *inputs: Tensor) -> Any:
        """What ``network`` makes of its inputs, with its parameters in their own units."""
        own = {n: s * attrgetter(n)(self.network) for n, s in self.scales.items()}
        return functional_call(self.network, own, inputs)


@dataclass(frozen=True)
class RescaledTask(DataTask):
    """``task`` with its parameters divided by ``scales``: one for all, or one per tensor."""

    family: ClassVar[str] = "rescaled"

    task: DataTask
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scales or not all(math.isfinite(s) and s > 0 for s in self.scales):
            raise ValueError(f"Scales are positive numbers, received {self.scales}.")

    @property
    def data(self) -> str | None:
        """What the task within learns from."""
        found: str | None = getattr(self.task, "data", None)
        return found

    @property
    def name(self) -> str:
        """The task's own, and the range of the scales."""
        ends = sorted({min(self.scales), max(self.scales)})
        return f"{self.task.name}-scaled-{'..'.join(f'{s:g}' for s in ends)}"

    def spec(self) -> dict[str, Any]:
        """The task's own, and the scales."""
        return {"task": self.family, "of": self.task.spec(), "scales": self.scales}

    def build(self) -> nn.Module:
        """A fresh network in other units."""
        return Rescaled(self.task.build(), self.scales)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """The task's own."""
        return self.task.example_inputs()

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """The task's own."""
        return self.task.batch(split, count, generator)

    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """The task's own."""
        return self.task.examples(split, limit, network)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The task's own."""
        return self.task.inputs(batch)

    def judge(self, output: Any, batch: Batch) -> Tensor:
        """The task's own."""
        return self.task.judge(output, batch)

    def accuracy(self, output: Tensor, batch: Batch) -> Tensor | None:
        """The task's own."""
        return self.task.accuracy(output, batch)
