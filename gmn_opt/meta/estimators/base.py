"""What a gradient estimator is given, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gmn_opt.codec import encode
from gmn_opt.meta.rules import MetaParameters, Rule
from gmn_opt.meta.task import Task
from gmn_opt.meta.unroll import InnerState
from gmn_opt.meta.windows import Windows

#: What an estimator remembers of a run from window to window, beyond its networks.
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Window:
    """A stretch of an inner run, of which the meta-gradient is wanted.

    Attributes:
        task: what is trained.
        state: where the window starts.
        steps: its length.
        generator: of the run; all that is random in the window is drawn from it.
        horizon: what the rule is told about the length of the run, None for nothing.
        last_weight: weight of the last step relative to the others.
        largest_loss: losses above it count alike, see :func:`gmn_opt.meta.unroll`.
        memory: what the estimator gave back after the run's window before.
    """

    task: Task
    state: InnerState
    steps: int
    generator: torch.Generator
    horizon: int | None = None
    last_weight: float = 1.0
    largest_loss: float = float("inf")
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """A meta-gradient, and where the run stands after the window.

    gradient: by name of the rule's parameters; meta_loss: detached scalar; losses: detached
    ``[steps + 1, networks]``, before every step and after the last; state and memory: for the next
    window, without a graph of differentiation.
    """

    gradient: MetaParameters
    meta_loss: Tensor
    losses: Tensor
    state: InnerState
    memory: Memory


class GradientEstimator(ABC):
    """A way to the derivative of a meta-loss with respect to a rule's parameters.

    An estimator has no state of its own: what it must remember of a run is in the run's
    :class:`~gmn_opt.meta.InnerState` and ``memory``, which the trainer keeps and saves. Subclasses
    are frozen dataclasses; their fields are saved with the configuration.
    """

    @property
    def window_lengths(self) -> Windows | None:
        """How windows are drawn; None for estimators that unroll whole runs."""
        windows = getattr(self, "windows", None)
        return windows if isinstance(windows, Windows) else None

    def network_count(self, most: int) -> int:
        """Networks that a run holds when ``most`` are wanted at once, at least what is needed."""
        return max(1, most)

    def start(
        self, rule: Rule, task: Task, count: int, generator: torch.Generator
    ) -> tuple[InnerState, Memory]:
        """``count`` fresh networks, and what is remembered of them."""
        return InnerState.initial(task, count, generator), {}

    @abstractmethod
    def estimate(self, rule: Rule, window: Window) -> Estimate:
        """The meta-gradient of ``window``, and the state after it."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the class's name and all fields."""
        made: dict[str, Any] = encode(self, GradientEstimator)
        return made
