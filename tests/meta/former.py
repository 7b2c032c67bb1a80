"""The unroll as it was before estimators: interpreted gradients, one list of losses.

Kept as the slow, obvious reference of first- and second-order truncated backpropagation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from gmn_opt.meta import InnerState, Task
from gmn_opt.meta.seeding import seeded
from gmn_opt.meta.twice import twice_differentiable
from gmn_opt.metanet import blocked
from gmn_opt.optim import StepInputs


def former_unroll(
    rule: Any,
    task: Task,
    state: InnerState,
    steps: int,
    generator: torch.Generator,
    horizon: int | None,
    second_order: bool,
    last_weight: float = 1.0,
    largest_loss: float = float("inf"),
) -> tuple[Tensor, Tensor, InnerState]:
    """Meta-loss, losses ``[steps + 1, count]``, and the state after the window."""
    layout = blocked(task.graph)
    _ = task.template
    gradients = vmap(
        grad_and_value(lambda theta, batch: task.loss(layout.unflatten(theta), batch)),
        randomness="different",
    )

    def evaluate(theta: Tensor) -> Any:
        batch = task.batch("inner_train", state.theta.shape[0], generator)
        if second_order:
            with twice_differentiable():
                return gradients(theta, batch)
        with torch.no_grad():
            grad, value = gradients(theta, batch)
        return grad, value + (grad * (theta - theta.detach())).sum(-1)

    theta, moments, thought = state.theta, state.moments, state.thought
    losses = []
    with seeded((generator.initial_seed() + state.step) % 2**63):
        grad, value = evaluate(theta)
        losses.append(value)
        for i in range(steps):
            inputs = StepInputs(
                *(task.graph, theta, grad, moments, state.step + i, horizon, not second_order),
                thought=thought,
            )
            delta, moments, thought = rule.flat_update(inputs)
            theta = theta + delta
            grad, value = evaluate(theta)
            losses.append(value)
    stacked = torch.stack(losses)
    detached = stacked.detach()
    weights = torch.ones(steps, dtype=stacked.dtype)
    weights[-1] = last_weight
    weights = weights / weights.sum()
    judged = (detached[1:] * weights[:, None]).sum(0)
    scale = 1.0 / judged.clamp(5e-4, max(largest_loss, 5e-4))
    each = (stacked[1:] * weights[:, None]).sum(0)
    meta_loss = (each * scale - 1 - scale.log()).mean()
    return meta_loss, detached, InnerState(theta, moments, state.step + steps, thought)
