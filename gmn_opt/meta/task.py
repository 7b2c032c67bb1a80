"""What a learned optimizer learns from: tasks, and where they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gmn_opt.kept import kept
from gmn_opt.meta.seeding import seeded

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph

Split = Literal["inner_train", "inner_valid", "outer_valid", "test"]
#: Tensors of one batch. In :meth:`Task.batch` each leads with the number of networks.
Batch = dict[str, Tensor]


class Task(ABC):
    """A network to train and data to train it on, for many initializations at once.

    Subclasses say how a network is built, what it reads and how its output is judged. All
    networks of a task share one parameter graph; ``torch.func.vmap`` runs them as one. What this
    asks of a task is checked once, before anything is trained on it (``gmn_opt.meta.contract``).
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, unique within a suite."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A freshly initialized network; draws from torch's global generator.

        All its parameters are trained. What is constant is a buffer, the same in all networks,
        and no buffer may change in the forward pass.
        """

    @abstractmethod
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of one forward pass, for tracing."""

    @abstractmethod
    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """One batch for each of ``count`` networks, every tensor ``[count, ...]``."""

    @abstractmethod
    def judge(self, output: Any, batch: Batch) -> Tensor:
        """Scalar loss of one network's ``output`` on its own ``batch`` (without ``count``)."""

    def spec(self) -> dict[str, Any]:
        """JSON description from which the task's source can restore it."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it can be restored.")

    @cached_property
    def template(self) -> nn.Module:
        """A network whose modules serve all functional calls; its own values are unused."""
        with seeded(0):
            return self.build()

    @cached_property
    def graph(self) -> ParameterGraph:
        """The parameter graph, traced once and contracted."""
        from gmn_opt.graph import trace

        return trace(self.template, *self.example_inputs()).contract()

    def initial_params(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``count`` independent initializations, ``{name: [count, *shape]}``."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with seeded(seed):
            draws = [dict(self.build().named_parameters()) for _ in range(count)]
        return {n: torch.stack([d[n].detach() for d in draws]) for n in self.graph.shapes}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the network reads of a batch; by default its ``"x"``."""
        return (batch["x"],)

    def _buffers(self, like: Tensor) -> dict[str, Tensor]:
        """The template's buffers on the device of ``like``."""
        named = self.template.named_buffers
        key = ("buffers", like.device)
        return kept(self, key, lambda: {n: b.to(like.device) for n, b in named()})

    def loss(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Scalar loss of one network; vectorize it with ``torch.func.vmap``.

        Raises ValueError if :meth:`judge` does not return a scalar.
        """
        inputs = self.inputs(batch)
        given = {**self._buffers(next(iter(params.values()))), **params}
        value = self.judge(functional_call(self.template, given, inputs), batch)
        if not isinstance(value, Tensor):
            raise ValueError(
                f"Task {self.name}: the loss must be a scalar tensor, received "
                f"{type(value).__name__}. Return a tensor from judge()."
            )
        if value.dim() != 0:
            raise ValueError(
                f"Task {self.name}: the loss must be a scalar, received shape "
                f"{tuple(value.shape)}. Reduce it, for example with .mean(), in judge()."
            )
        return value


class TaskSource(Protocol):
    """A distribution over tasks."""

    def sample(self, generator: torch.Generator) -> Task:
        """Draw a task."""
        ...

    def restore(self, spec: dict[str, Any]) -> Task:
        """The task that ``spec`` describes."""
        ...
