"""Regression and classification of tables of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.meta import Batch, Split
from tasks.base import DataTask, noise, right
from tasks.data.tables import TABLES, table_of
from tasks.networks.plain import ACTIVATIONS, check_choice, check_positive, mlp, scale_matrices


@dataclass(frozen=True)
class Tabular(DataTask):
    """An MLP that predicts one column, or the class, from the other columns.

    Attributes:
        data: One of ``tasks.data.tables.TABLES``.
        hidden: Widths of hidden layers; none for a linear model.
        activation: A key of ``ACTIVATIONS``.
        norm: ``"none"`` or ``"layer"``.
        batch_size: Rows per network and step.
        feature_noise: Standard deviation of noise on the features, whose own is 1. The tables are
            small: without noise networks soon know them by heart.
        gain: Factor on the initial weights.
    """

    family: ClassVar[str] = "tabular"

    data: str
    hidden: tuple[int, ...]
    activation: str = "relu"
    norm: str = "none"
    batch_size: int = 32
    feature_noise: float = 0.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_choice("table", self.data, TABLES)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("norm", self.norm, ("none", "layer"))
        check_positive("widths, batch_size and gain", *self.hidden, self.batch_size, self.gain)

    @property
    def name(self) -> str:
        """Data, architecture and batch size."""
        widths = "-".join(map(str, self.hidden)) or "linear"
        return f"{self.data}-mlp-{widths}-{self.activation}-b{self.batch_size}"

    def build(self) -> nn.Module:
        """A fresh network."""
        table = table_of(self.data)
        outputs = 1 if table.classes is None else table.classes
        layers = mlp(table.features, self.hidden, outputs, self.activation, self.norm)
        return scale_matrices(nn.Sequential(*layers), self.gain)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two rows of noise."""
        shape = (2, table_of(self.data).features)
        return (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)

    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        """``x``: [count, batch, features]; ``y``: [count, batch] or [count, batch, 1]."""
        table = table_of(self.data)
        x, y = table.x[split], table.y[split]
        index = torch.randint(len(x), (count, self.batch_size), generator=generator)
        rows = x[index]
        if self.feature_noise:
            rows = rows + self.feature_noise * noise(rows, generator)
        return {"x": rows, "y": y[index]}

    def examples(self, split: Split, limit: int, network: int = 0) -> Batch:
        """The first rows."""
        table = table_of(self.data)
        return {"x": table.x[split][:limit], "y": table.y[split][:limit]}

    def judge(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean cross entropy in nats, or mean squared error of a target of variance 1."""
        if table_of(self.data).classes is None:
            return F.mse_loss(output, batch["y"])
        return F.cross_entropy(output, batch["y"])

    def accuracy(self, output: Tensor, batch: Batch) -> Tensor | None:
        """Share of rows whose class is the likeliest; None for a regression."""
        return None if table_of(self.data).classes is None else right(output, batch["y"])
