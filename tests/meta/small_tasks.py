"""Small float64 tasks and rules for the tests of meta-training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gmn_opt.meta import Batch, InnerState, Split
from gmn_opt.meta.estimators import Window
from gmn_opt.optim import LearnedRule, RuleConfig
from tasks.classification import ImageClassification

Kind = TypeVar("Kind", bound=ImageClassification)


@dataclass(frozen=True)
class Float64(ImageClassification):
    """A task whose batches are in float64."""

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        batch = super().batch(split, count, generator)
        return {**batch, "x": batch["x"].double()}


@dataclass(frozen=True)
class SameBatch(Float64):
    """A task that gives every network the same batch at every step."""

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        batch = super().batch(split, 1, torch.Generator().manual_seed(7))
        return {name: t.expand(count, *t.shape[1:]) for name, t in batch.items()}


@dataclass(frozen=True)
class ConvNet(Float64):
    """A residual CNN with batch norm.

    Its convolutions have no biases: in front of a batch norm their gradients are rounding noise,
    which directions of unit size amplify, so that no two ways to compute them agree.
    """

    def build(self) -> nn.Module:
        return _Residual(4)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels, track_running_stats=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.first(x)))
        x = x + torch.nn.functional.silu(self.second(x))
        out: Tensor = self.head(x.mean((-2, -1)))
        return out


@dataclass(frozen=True)
class Dropout(Float64):
    """A task whose network draws random numbers in its forward pass."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Dropout(0.5), nn.Linear(6, 10))


@dataclass(frozen=True)
class Explosive(Float64):
    """A task whose loss becomes NaN, or grows without bound, after the first steps."""

    cure: str = "nan"

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        batch = super().batch(split, count, generator)
        return {**batch, "late": torch.rand(count, generator=generator).double()}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        loss = super().judge(output, batch)
        factor = torch.nan if self.cure == "nan" else 1e4
        return torch.where(batch["late"] > 0.7, factor * loss, loss)


@dataclass(frozen=True)
class Unreduced(Float64):
    """A task that forgets to reduce its loss."""

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(output, batch["y"], reduction="none")


@dataclass(frozen=True)
class ZeroInputs(Float64):
    """A task in which half of the inputs are exactly zero, and so are their gradients."""

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        batch = super().batch(split, count, generator)
        batch["x"][..., : self.size // 2, :] = 0.0
        return batch


def like(kind: type[Kind], task: ImageClassification) -> Kind:
    """A task of another kind with the fields of ``task``."""
    return kind(**{f.name: getattr(task, f.name) for f in fields(task)})


MLP = Float64("mnist", 8, (5, 4), activation="tanh", batch_size=12)
CNN = Float64("mnist", 8, (3, 4), kind="cnn", activation="gelu", batch_size=8)
RESIDUAL = ConvNet("mnist", 8, (4,), kind="cnn", norm="batch", batch_size=8)
NOISY = Float64("mnist", 8, (3,), kind="cnn", norm="batch", activation="tanh", batch_size=8)
LAYER_NORM = Float64("mnist", 8, (5, 4), norm="layer", activation="silu", batch_size=12)
SMALL = {"mlp": MLP, "layer_norm": LAYER_NORM, "cnn": CNN, "residual": RESIDUAL}


@dataclass(frozen=True)
class OneTask:
    """A source that always gives the same task."""

    task: ImageClassification

    def sample(self, generator: torch.Generator) -> ImageClassification:
        torch.rand((), generator=generator)
        return replace(self.task)

    def restore(self, spec: dict[str, Any]) -> ImageClassification:
        return replace(self.task)


def busy_rule(seed: int = 0, size: float = 0.15) -> LearnedRule:
    """A small rule in float64 whose heads are far from zero."""
    torch.manual_seed(seed)
    rule = LearnedRule(
        RuleConfig(hidden=6, edge_hidden=3, layers=2, every=2, neurons=True)
    ).double()
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(size * torch.randn_like(p))
    return rule


def double_state(task: ImageClassification, count: int, seed: int = 3) -> InnerState:
    """A float64 state in which some gradients were seen."""
    generator = torch.Generator().manual_seed(seed)
    state = InnerState.initial(task, count, generator)
    theta = state.theta.double()
    noise = torch.randn(count, 2, theta.shape[-1], generator=generator, dtype=torch.float64)
    moments = torch.cat([0.02 * noise, 0.02**2 * noise[:, :1].square() + 1e-5], 1)
    return InnerState(theta, moments, 4)


def named(parameters: Mapping[str, Tensor]) -> Tensor:
    """Tensors as one vector."""
    return torch.cat([p.flatten() for p in parameters.values()])


def window(
    task: Any, state: InnerState, steps: int, memory: dict[str, Tensor] | None = None, seed: int = 5
) -> Window:
    """So many steps of a run of 30."""
    return Window(task, state, steps, torch.Generator().manual_seed(seed), 30, memory=memory or {})


def shared_batch(task: Any) -> SameBatch:
    """The task with one batch for all networks and steps."""
    return like(SameBatch, task)
