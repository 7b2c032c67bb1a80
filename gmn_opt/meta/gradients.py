"""Gradients of many networks at once, traced to a flat list of operators once they are hot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from gmn_opt.kept import kept
from gmn_opt.meta.simplify import simplify
from gmn_opt.meta.task import Batch, Task
from gmn_opt.meta.twice import twice_differentiable
from gmn_opt.metanet import blocked

#: Calls before a trace pays for itself: one costs as much as some tens of calls.
_HOT = 12
_Pair = tuple[Tensor, Tensor]


class FlatGradients:
    """From ``theta`` [count, P] and a batch to gradients [count, P] and losses [count].

    ``torch.func`` interprets the network anew at every call, which for small networks costs more
    than the arithmetic. After some calls with the same shapes the operators that it arrives at are
    therefore recorded with ``make_fx`` and replayed: the same operators on the same numbers, so the
    results are bitwise the same, and differentiable like them. A network that cannot be recorded,
    or whose recording does not reproduce the next call bit by bit, stays interpreted.

    The loss must be a function of parameters and batch alone (and of random draws through torch),
    as ``vmap`` asks of it anyway.

    Args:
        task: whose loss is differentiated.
        second_order: whether the gradients will be differentiated again, see ``meta.twice``.
    """

    def __init__(self, task: Task, second_order: bool = False) -> None:
        layout = blocked(task.graph)
        _ = task.template  # built here, because vmap forbids random draws inside
        self.name = task.name
        self.second_order = second_order
        self._calls: dict[Any, int] = {}
        self._traced: dict[Any, Callable[[Tensor, Batch], _Pair] | None] = {}

        def loss(theta: Tensor, batch: Batch) -> Tensor:
            return task.loss(layout.unflatten(theta), batch)

        self._interpreted = vmap(grad_and_value(loss), randomness="different")

    def interpreted(self, theta: Tensor, batch: Batch) -> _Pair:
        """The slow, obvious way: ``torch.func`` on the task's loss."""
        if not self.second_order:
            return self._interpreted(theta, batch)
        with twice_differentiable():
            return self._interpreted(theta, batch)

    def __call__(self, theta: Tensor, batch: Batch) -> _Pair:
        """The fastest way known for these shapes."""
        key = _signature(theta, batch)
        if key not in self._traced:
            calls = self._calls.get(key, 0)
            self._calls[key] = calls + 1
            if calls < _HOT:
                return self.interpreted(theta, batch)
            self._traced[key] = self._trace(theta, batch)
        traced = self._traced[key]
        return self.interpreted(theta, batch) if traced is None else traced(theta, batch)

    def trace(self, theta: Tensor, batch: Batch) -> None:
        """Record now, for callers that cannot do with the interpreted form.

        Raises ValueError for a network that cannot be recorded.
        """
        key = _signature(theta, batch)
        if self._traced.get(key) is None:
            self._traced[key] = self._trace(theta, batch)
        if self._traced[key] is None:
            raise ValueError(
                f"Task {self.name}: the operators of its loss cannot be recorded, which activation "
                "checkpointing needs. Unroll without checkpoints (chunk=None)."
            )

    def _trace(self, theta: Tensor, batch: Batch) -> Callable[[Tensor, Batch], _Pair] | None:
        theta = theta.detach()

        def call(function: Callable[[Tensor, Batch], Any]) -> Any:
            with torch.no_grad(), torch.random.fork_rng(devices=_cuda(theta)):
                return function(theta, batch)

        expected = call(self.interpreted)
        try:
            # a plain function: the recorder counts the arguments of what it is given
            graph = simplify(call(make_fx(lambda theta, batch: self.interpreted(theta, batch))))
            found = call(graph)
        except Exception:  # whatever a task's code makes the recorder raise, there is another way
            return None
        same = all(_identical(a, b) for a, b in zip(expected, found, strict=True))
        return graph if same else None


def _cuda(tensor: Tensor) -> list[torch.device]:
    return [tensor.device] if tensor.is_cuda else []


def _identical(a: Tensor, b: Tensor) -> bool:
    if a.is_cuda:  # atomics add in any order
        return torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
    return bool(torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))


def _signature(theta: Tensor, batch: Batch) -> Any:
    return (
        theta.shape,
        theta.dtype,
        theta.device,
        *((name, t.shape, t.stride(), t.dtype) for name, t in batch.items()),
    )


def flat_gradients(task: Task, second_order: bool = False) -> FlatGradients:
    """The gradients of ``task``, made once and kept with it."""
    key = ("flat gradients", second_order)
    return kept(task, key, lambda: FlatGradients(task, second_order))
