"""Problems whose meta-gradients are known: quadratic tasks, a rule of one or two numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.meta import Batch, InnerState, Split, Task
from gmn_opt.meta.estimators import GradientEstimator, Window
from gmn_opt.optim import StepInputs, StepOutputs

#: 1 / smallest loss that counts: the weight of every loss in an absolute window.
SCALE = 2000.0


class Weights(nn.Module):
    """Two numbers that start at 1 and 2, whatever the seed."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, 2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.w)


class Quadratic(Task):
    """Loss ``(a_1 w_1^2 + a_2 w_2^2) / 2``, the same at every step; ``noise`` moves its minimum."""

    curvature = (1.0, 0.3)

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    @property
    def name(self) -> str:
        return "quadratic"

    def build(self) -> nn.Module:
        return Weights()

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.ones(3, 2),)

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        drawn = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        x = torch.tensor(self.curvature, dtype=torch.float64).sqrt().diag()
        return {"x": x.expand(count, 2, 2), "shift": self.noise * drawn}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        return 0.5 * (output.squeeze(-1) - batch["shift"]).square().sum()

    def spec(self) -> dict[str, Any]:
        return {"noise": self.noise}


class Descent(nn.Module):
    """Gradient descent: ``delta = -exp(log_rate) grad + drift``. Two meta-parameters."""

    moment_names = ("unused",)

    def __init__(self, log_rate: float = -1.5, drift: float = 0.02) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(log_rate, dtype=torch.float64))
        self.drift = nn.Parameter(torch.tensor([drift], dtype=torch.float64))

    def flat_update(self, inputs: StepInputs) -> StepOutputs:
        return StepOutputs(-self.log_rate.exp() * inputs.grad + self.drift, inputs.moments)


def start(
    estimator: GradientEstimator, rule: Any, task: Task, count: int, seed: int = 0
) -> tuple[InnerState, dict[str, Tensor]]:
    """A fresh run in float64."""
    state, memory = estimator.start(rule, task, count, torch.Generator().manual_seed(seed))
    return state.to("cpu", torch.float64), memory


def analytic_losses(rule: Descent, steps: int, task: Quadratic) -> Tensor:
    """Losses after steps 1..steps without noise, ``[steps]``, differentiable in the rule.

    The recursion ``w <- w - rate a w + drift`` written out, no package code.
    """
    a = torch.tensor(task.curvature, dtype=torch.float64)
    w = torch.tensor([1.0, 2.0], dtype=torch.float64)
    losses = []
    for _ in range(steps):
        w = w - rule.log_rate.exp() * a * w + rule.drift
        losses.append(0.5 * (a * w * w).sum())
    return torch.stack(losses)


def analytic_gradient(
    rule: Descent, objective: Callable[[Tensor], Tensor], steps: int, task: Quadratic
) -> Tensor:
    """Derivative ``[2]`` of ``objective(losses)``."""
    value = objective(analytic_losses(rule, steps, task))
    return vector(
        dict(
            zip(("log_rate", "drift"), torch.autograd.grad(value, list(rule.parameters())),
                strict=True)
        )
    )  # fmt: skip


def vector(named: Mapping[str, Tensor]) -> Tensor:
    """Named meta-parameters or gradients as one vector."""
    return torch.cat([t.reshape(-1) for t in named.values()])


def absolute(window: Window) -> Window:
    """The same window, every loss weighted alike: 1 / the smallest loss that counts."""
    from dataclasses import replace

    return replace(window, largest_loss=0.0)
