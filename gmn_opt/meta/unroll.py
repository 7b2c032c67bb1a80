"""Training runs of many networks at once, and meta-losses that reach through them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from gmn_opt.meta.seeding import seeded
from gmn_opt.meta.task import Batch, Split, Task
from gmn_opt.meta.twice import twice_differentiable
from gmn_opt.metanet import blocked

if TYPE_CHECKING:
    from gmn_opt.optim import LearnedRule


#: Losses below this count alike: a network that fits its data perfectly has nothing to teach.
_SMALLEST_LOSS = 0.02


@dataclass(frozen=True)
class InnerState:
    """``count`` networks in training: parameters ``[count, P]`` and moments ``[count, 3, P]``.

    Both are flat, in the block order of the task's graph. ``step`` updates were made so far.
    """

    theta: Tensor
    moments: Tensor
    step: int = 0

    @staticmethod
    def initial(task: Task, count: int, generator: torch.Generator) -> InnerState:
        """Fresh networks before the first step."""
        theta = blocked(task.graph).flatten(task.initial_params(count, generator))
        return InnerState(theta, theta.new_zeros(count, 3, theta.shape[-1]))

    def detach(self) -> InnerState:
        """Cut the graph of differentiation, so that what lies behind is freed."""
        return replace(self, theta=self.theta.detach(), moments=self.moments.detach())

    def to(self, device: torch.device | str) -> InnerState:
        """On another device."""
        return replace(self, theta=self.theta.to(device), moments=self.moments.to(device))


@dataclass(frozen=True)
class Unrolled:
    """One window of a run.

    meta_loss: differentiable scalar; losses: detached ``[steps + 1, count]``, before every step
    and after the last; state: where the window ended, not yet detached.
    """

    meta_loss: Tensor
    losses: Tensor
    state: InnerState


def flat_gradients(task: Task) -> Callable[[Tensor, Batch], tuple[Tensor, Tensor]]:
    """Function from ``theta`` [count, P] and a batch to gradients [count, P] and losses [count]."""
    layout = blocked(task.graph)
    _ = task.template  # built here, because vmap forbids random draws inside

    def loss(theta: Tensor, batch: Batch) -> Tensor:
        return task.loss(layout.unflatten(theta), batch)

    return vmap(grad_and_value(loss), randomness="different")


def _own_randomness(generator: torch.Generator, state: InnerState) -> AbstractContextManager[None]:
    """Random draws inside a network (dropout) that depend on the run and its step alone."""
    return seeded((generator.initial_seed() + state.step) % 2**63, state.theta.device)


def unroll(
    rule: LearnedRule,
    task: Task,
    state: InnerState,
    steps: int,
    generator: torch.Generator,
    horizon: int | None = None,
    second_order: bool = False,
    split: Split = "inner_train",
    last_weight: float = 1.0,
    largest_loss: float = float("inf"),
) -> Unrolled:
    """Train for ``steps`` steps with ``rule`` and judge every step on a fresh batch.

    The meta-loss is the mean over networks and steps 1..steps of the loss on the batch that the
    next gradient is taken from (a fresh one, so no extra forward pass is needed), each network
    weighted by 1 / its mean loss in the window: in effect, the log loss, except that a loss above
    ``largest_loss`` (that of the untrained network, say) does not lower the weight any further.
    ``last_weight`` is the weight of the final step relative to the others.

    With ``second_order`` the meta-gradient is exact. Without, gradients and accumulators count as
    constants: d meta-loss / d theta_t is then the gradient that was computed anyway, which makes a
    window several times cheaper (first-order truncated backpropagation; Andrychowicz et al. 2016
    drop the same terms).
    """
    if steps < 1:
        raise ValueError(f"An unroll needs at least one step, received steps={steps}.")
    gradients = flat_gradients(task)
    device = state.theta.device

    def fresh() -> Batch:
        batch = task.batch(split, state.theta.shape[0], generator)
        return {name: t.to(device) for name, t in batch.items()}

    def evaluate(theta: Tensor) -> tuple[Tensor, Tensor]:
        if second_order:
            with twice_differentiable():
                return gradients(theta, fresh())
        with torch.no_grad():
            grad, value = gradients(theta, fresh())
        # the value of the loss, with its gradient as a constant
        return grad, value + (grad * (theta - theta.detach())).sum(-1)

    theta, moments = state.theta, state.moments
    losses = []
    with _own_randomness(generator, state):
        grad, value = evaluate(theta)
        losses.append(value)
        for i in range(steps):
            delta, moments = rule.flat_update(
                task.graph, theta, grad, moments, state.step + i, horizon, not second_order
            )
            theta = theta + delta
            grad, value = evaluate(theta)
            losses.append(value)
    stacked = torch.stack(losses)
    detached = stacked.detach()
    scale = 1.0 / detached.mean(0).clamp(_SMALLEST_LOSS, max(largest_loss, _SMALLEST_LOSS))
    weights = torch.ones(steps, device=device, dtype=stacked.dtype)
    weights[-1] = last_weight
    weights = weights / weights.sum()
    meta_loss = (stacked[1:] * scale * weights[:, None]).sum(0).mean()
    return Unrolled(meta_loss, detached, InnerState(theta, moments, state.step + steps))


@torch.no_grad()
def train_inner(
    rule: LearnedRule,
    task: Task,
    steps: int,
    count: int,
    seed: int,
    horizon: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[InnerState, Tensor]:
    """A whole run without meta-gradients: the final state and losses ``[steps, count]``.

    Raises ValueError when there is nothing to do.
    """
    if min(steps, count) < 1:
        raise ValueError(
            f"A run needs a step and a network, received steps={steps}, count={count}."
        )
    generator = torch.Generator().manual_seed(seed)
    state = InnerState.initial(task, count, generator).to(device)
    gradients = flat_gradients(task)
    losses = []
    with _own_randomness(generator, state):
        for step in range(steps):
            fresh = task.batch("inner_train", count, generator)
            grad, value = gradients(state.theta, {n: t.to(device) for n, t in fresh.items()})
            losses.append(value)
            delta, moments = rule.flat_update(
                task.graph, state.theta, grad, state.moments, step, horizon
            )
            state = InnerState(state.theta + delta, moments, step + 1)
    return state, torch.stack(losses)
