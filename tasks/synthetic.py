"""Problems whose data are drawn from a formula: teachers and students, quadratics, a valley."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.meta import Batch, Split
from gmn_opt.meta.seeding import seeded
from tasks.base import DataTask
from tasks.data.splits import SPLITS
from tasks.networks.plain import ACTIVATIONS, check_choice, check_positive, mlp, scale_matrices


def _of_split(split: Split, generator: torch.Generator) -> torch.Generator:
    """A generator for this batch, another one for each split."""
    seeds = torch.randint(2**62, (len(SPLITS),), generator=generator)
    return torch.Generator().manual_seed(int(seeds[SPLITS.index(split)]))


@dataclass(frozen=True)
class TeacherStudent(DataTask):
    """Regression of the outputs of a fixed random network.

    Without hidden layers in teacher and student it is a noisy quadratic whose curvatures run from
    1 to 1 / ``condition``; with hidden layers and ``activation="identity"`` a deep linear network.

    Attributes:
        features, outputs: Numbers of each.
        hidden: Widths of the student's hidden layers.
        teacher: Widths of the teacher's hidden layers, of tanh.
        activation: The student's, a key of ``ACTIVATIONS``, or ``"identity"``.
        condition: Largest over smallest variance of the inputs, which fall geometrically.
        target_noise: Standard deviation of noise on the targets, whose own is about 1.
        seed: Of the teacher.
        batch_size: Inputs per network and step.
        gain: Factor on the initial weights.
    """

    family: ClassVar[str] = "teacher_student"

    features: int
    outputs: int = 1
    hidden: tuple[int, ...] = ()
    teacher: tuple[int, ...] = ()
    activation: str = "relu"
    condition: float = 1.0
    target_noise: float = 0.1
    seed: int = 0
    batch_size: int = 32
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, (*ACTIVATIONS, "identity"))
        check_positive(
            "sizes and gain",
            *(self.features, self.outputs, *self.hidden, *self.teacher, self.batch_size, self.gain),
        )
        if self.condition < 1:
            raise ValueError(f"A condition number is at least 1, received {self.condition}.")

    @property
    def name(self) -> str:
        """Sizes, condition, batch size and seed."""
        student = "-".join(map(str, (self.features, *self.hidden, self.outputs)))
        teacher = "-".join(map(str, self.teacher)) or "linear"
        return (
            f"teacher-{teacher}-student-{student}-{self.activation}-c{self.condition:g}"
            f"-b{self.batch_size}-s{self.seed}"
        )

    def _layers(self, hidden: tuple[int, ...], activation: str) -> nn.Sequential:
        if activation != "identity":
            return nn.Sequential(*mlp(self.features, hidden, self.outputs, activation))
        sizes = (self.features, *hidden, self.outputs)
        return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)))

    def build(self) -> nn.Module:
        """A fresh student."""
        return scale_matrices(self._layers(self.hidden, self.activation), self.gain)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two inputs."""
        return (torch.randn(2, self.features, generator=torch.Generator().manual_seed(0)),)

    @cached_property
    def _teacher(self) -> nn.Module:
        """Scaled so that its outputs have a standard deviation of about 1."""
        with seeded(self.seed), torch.no_grad():
            network = self._layers(self.teacher, "tanh" if self.teacher else "identity")
            x = torch.randn(1000, self.features) * self._spread()
            network[-1].weight.div_(network(x).std())  # type: ignore[operator]
        return network.requires_grad_(False)

    def _spread(self) -> Tensor:
        return self.condition ** (-0.5 * torch.linspace(0, 1, self.features))

    def _drawn(self, shape: tuple[int, ...], generator: torch.Generator) -> Batch:
        x = torch.randn(*shape, self.features, generator=generator) * self._spread()
        with torch.no_grad():
            y = self._teacher(x)
        return {"x": x, "y": y + self.target_noise * torch.randn(y.shape, generator=generator)}

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """``x``: [count, batch, inputs]; ``y``: [count, batch, outputs]; always fresh ones."""
        return self._drawn((count, self.batch_size), _of_split(split, generator))

    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """The same at every call."""
        return self._drawn((limit,), _of_split(split, torch.Generator().manual_seed(0)))

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(output, batch["y"])


class _Point(nn.Module):
    """A point in space; it is seen displaced by its input."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(dimensions))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, dimensions]`` to the same."""
        return self.place + x


@dataclass(frozen=True)
class Rosenbrock(DataTask):
    """The mean of Rosenbrock's curved valley around a point.

    Attributes:
        dimensions: At least 2.
        steepness: Factor on the walls of the valley, 100 in the original.
        displacement: Standard deviation of the random displacements that gradients come from.
        batch_size: Displacements per network and step.
    """

    family: ClassVar[str] = "rosenbrock"

    dimensions: int = 8
    steepness: float = 10.0
    displacement: float = 0.05
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_positive("sizes and steepness", self.dimensions, self.steepness, self.batch_size)
        if self.dimensions < 2:
            raise ValueError("Rosenbrock's valley has at least 2 dimensions, received 1.")

    @property
    def name(self) -> str:
        """Dimensions, steepness, noise."""
        return f"rosenbrock-{self.dimensions}-k{self.steepness:g}-n{self.displacement:g}"

    def build(self) -> nn.Module:
        """A random point."""
        return _Point(self.dimensions)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two displacements."""
        return (torch.randn(2, self.dimensions, generator=torch.Generator().manual_seed(0)),)

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """``x``: [count, batch, dimensions], always fresh ones."""
        shape = (count, self.batch_size, self.dimensions)
        return {"x": self.displacement * torch.randn(shape, generator=_of_split(split, generator))}

    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """No displacement."""
        return {"x": torch.zeros(limit, self.dimensions)}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Rosenbrock's function, per dimension."""
        now, following = output[:, :-1], output[:, 1:]
        return (self.steepness * (following - now**2).square() + (1 - now).square()).mean()
