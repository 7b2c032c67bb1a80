"""A task that breaks its contract is refused at the start, by method and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.meta import Batch, InnerState, MetaTrainer, Split, Task, TaskError, check_task
from tests.meta.small_tasks import SMALL
from tests.meta.trainers import TINY


class Line(Task):
    """A sound task, of which each case breaks one thing."""

    name = "line"

    def __init__(self, network: Callable[[], Any] = lambda: nn.Linear(3, 2)) -> None:
        self.network = network

    def build(self) -> nn.Module:
        made: nn.Module = self.network()
        return made

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.ones(4, 3),)

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        x = torch.randn(count, 4, 3, generator=generator)
        return {"x": x, "y": x[..., :2]}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(output, batch["y"])


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    return model


def one_frozen_bias() -> nn.Module:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    return model


class Counting(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1  # type: ignore[operator,assignment]
        return super().forward(x)


class Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if out.sum() > 0 else -out


NETWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "frozen": (frozen, r"build\(\) freezes '0.weight', '0.bias'.* register_buffer"),
    "one_frozen_bias": (one_frozen_bias, r"build\(\) freezes 'bias'"),
    "all_frozen": (lambda: nn.Linear(3, 2).requires_grad_(False), r"build\(\) freezes 'weight'"),
    "batch_norm": (
        lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
        r"build\(\) makes '1', a BatchNorm1d .*track_running_stats=False",
    ),
    "instance_norm": (
        lambda: nn.Sequential(nn.Linear(3, 2), nn.InstanceNorm1d(2, track_running_stats=True)),
        r"'1', a InstanceNorm1d with running statistics",
    ),
    "spectral_norm": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)),
        r"build\(\) puts spectral norm on .*matrix_norm",
    ),
    "counting": (Counting, r"build\(\) makes a network whose forward pass changes .*'seen'"),
    "branching": (lambda: Branching(3, 2), r"forward\(\) raised .*torch.func.vmap.*torch.where"),
    "nothing": (nn.Identity, r"build\(\) made a network without parameters"),
    "a_tuple": (lambda: (nn.Linear(3, 2),), r"build\(\) returned a tuple. Return a torch.nn"),
    "sizes": (lambda: nn.Linear(4, 2), r"build\(\) made a network that cannot be traced on ex"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_cannot_be_trained(name: str) -> None:
    network, message = NETWORKS[name]
    with pytest.raises(TaskError, match=f"Task line: .*{message}"):
        check_task(Line(network))


class ItemInJudge(Line):
    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(output, batch["y"]) * (1 + output.abs().max().item())


class Unreduced(Line):
    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(output, batch["y"], reduction="none")


class FloatLoss(Line):
    def judge(self, output: Tensor, batch: Batch) -> Any:
        return 1.0


class WrongKey(Line):
    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(output, batch["target"])


class TupleBatch(Line):
    def batch(self, split: Split, count: int, generator: torch.Generator) -> Any:
        return tuple(super().batch(split, count, generator).values())


class NumbersInBatch(Line):
    def batch(self, split: Split, count: int, generator: torch.Generator) -> Any:
        return {**super().batch(split, count, generator), "weight": 0.5}


class OneForAll(Line):
    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        return {n: t[0] for n, t in super().batch(split, count, generator).items()}


class OtherDraws(Line):
    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        x = torch.randn(count, 4, 3)
        return {"x": x, "y": x[..., :2]}


class OneSplit(Line):
    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        return super().batch({"inner_train": split}[split], count, generator)


class NoX(Line):
    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        found = super().batch(split, count, generator)
        return {"inputs": found["x"], "y": found["y"]}


class TensorExample(Line):
    def example_inputs(self) -> Any:
        return torch.ones(4, 3)


METHODS: dict[type[Line], str] = {
    ItemInJudge: r"judge\(\) raised .*torch.func.vmap.*no .item\(\)",
    Unreduced: r"the loss must be a scalar, received shape .*judge\(\)",
    FloatLoss: r"the loss must be a scalar tensor, received float.*judge\(\)",
    WrongKey: r"judge\(\) raised KeyError: 'target'",
    TupleBatch: r"batch\(split='outer_valid'\) returned a tuple. Return a dict of tensors",
    NumbersInBatch: r"returned a dict .*'weight': 'float'",
    OneForAll: r"asked for 2 networks, and returned 'x' of shape \(4, 3\). .*\[count, ...\]",
    OtherDraws: r"another 'x' for a generator in the same state.*Draw everything from",
    OneSplit: r"batch\(split='outer_valid'\) raised KeyError: 'outer_valid'. Serve every",
    NoX: r"inputs\(\) raised KeyError: 'x'. Name the inputs 'x' .* override inputs\(\)",
    TensorExample: r"example_inputs\(\) returned a Tensor. Return a tuple",
}


@pytest.mark.parametrize("kind", METHODS)
def test_methods_that_break_the_contract(kind: type[Line]) -> None:
    with pytest.raises(ValueError, match=f"Task line: .*{METHODS[kind]}"):
        check_task(kind())


def test_a_sound_task_is_checked_once_and_leaves_no_trace() -> None:
    task, calls = Line(), []
    judge = task.judge
    task.judge = lambda *given: (calls.append(1), judge(*given))[1]  # type: ignore[method-assign,func-returns-value]
    random = torch.random.get_rng_state()
    check_task(task)
    first = len(calls)
    check_task(task)
    assert len(calls) == first > 0
    assert torch.equal(random, torch.random.get_rng_state())


@pytest.mark.parametrize("name", SMALL)
def test_tasks_in_double_precision_pass(name: str) -> None:
    check_task(SMALL[name])


def test_it_is_the_first_thing_that_training_says() -> None:
    class Source:
        def sample(self, generator: torch.Generator) -> Task:
            return Line(frozen)

        def restore(self, spec: dict[str, Any]) -> Task:
            return Line(frozen)

    with pytest.raises(TaskError, match="requires_grad"):
        MetaTrainer(Source(), TINY)
    with pytest.raises(TaskError, match="requires_grad"):
        InnerState.initial(Line(frozen), 2, torch.Generator())
