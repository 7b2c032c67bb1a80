"""Fine-tuning of pretrained networks: ``python -m experiments.fine_tuning --out runs/fine_tuning``.

A language model and a convolutional network are trained here with AdamW, then go on with 1,000
examples of other data for 300 steps: all weights, or LoRA (Hu et al. 2021) on the hidden layers
with the rest frozen. GMNOptimizer, as it is and at the factors of ``--factors``, beside
AdamW with warmup and cosine at every rate of a grid. Reported are the loss on the new data's test
split and on the data that the network came from. Writes ``result.json``, and prints the table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import AdamW

from experiments import frame
from experiments.comparison.running import evaluate
from gmn_opt import GMNOptimizer
from gmn_opt.cli.bench.contestants import Driver
from gmn_opt.cli.bench.schedules import warmup_cosine
from gmn_opt.meta import Batch
from tasks.base import DataTask
from tasks.classification import ImageClassification
from tasks.language import SourceCode

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
RANK = 4
PRETRAINING_RATE = 3e-3
BATCH = 16


def pairs() -> dict[str, tuple[DataTask, DataTask]]:
    """Where a network comes from and what it is tuned to, by name."""
    digits = ImageClassification("mnist", 28, (16, 32), "strided", batch_size=64)
    text = SourceCode("stdlib", 64, 2, length=32, alphabet="ascii", batch_size=32)
    return {
        "CNN, digits to clothes": (digits, replace(digits, data="fashion_mnist")),
        "GPT, to other packages": (text, replace(text, data="stdlib_held_out")),
    }


class LowRank(nn.Module):
    """A weight, flattened to a matrix, plus ``up @ down``, which is zero at first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.down = nn.Parameter(torch.randn(RANK, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that is used."""
        return weight + (self.up @ self.down).view(weight.shape)


def with_lora(model: nn.Module) -> nn.Module:
    """``model`` with low-rank changes on all matrices and kernels, all else frozen, in place."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight))
    return model


def loss_on(task: DataTask, model: nn.Module) -> float:
    """Mean over test examples."""
    return evaluate(task, model, task.examples("test", 1000))[0]


def train(
    task: DataTask, model: nn.Module, driver: Driver, steps: int, batch: Callable[[], Batch]
) -> None:
    """``steps`` updates in place."""
    for _ in range(steps):
        examples = batch()
        model.zero_grad()
        task.judge(model(*task.inputs(examples)), examples).backward()
        driver.step()


def pretrained(task: DataTask, steps: int, seed: int) -> nn.Module:
    """A network of ``task`` after a training with AdamW."""
    torch.manual_seed(seed)
    model, generator = task.build(), torch.Generator().manual_seed(seed)
    driver = Driver(AdamW(model.parameters(), lr=PRETRAINING_RATE), warmup_cosine(steps))

    def batch() -> Batch:
        return {k: t[0] for k, t in task.batch("inner_train", 1, generator).items()}

    train(task, model, driver, steps, batch)
    return model


def contestants(
    steps: int, weights: str, factors: tuple[float, ...]
) -> dict[str, Callable[[list[nn.Parameter]], Driver]]:
    """By name; each makes an optimizer of parameters."""

    def gmn(factor: float) -> Callable[[list[nn.Parameter]], Driver]:
        return lambda p: Driver(GMNOptimizer(p, lr=factor, total_steps=steps, weights=weights))

    def adamw(rate: float) -> Callable[[list[nn.Parameter]], Driver]:
        return lambda p: Driver(AdamW(p, lr=rate), warmup_cosine(steps))

    return {
        **{f"GMN x {factor:g}" if factor != 1 else "GMN": gmn(factor) for factor in factors},
        **{f"AdamW {rate:g}": adamw(rate) for rate in RATES},
    }


def tune(
    new: DataTask,
    old: DataTask,
    start: nn.Module,
    make: Callable[[list[nn.Parameter]], Driver],
    lora: bool,
    examples: int,
    steps: int,
    seed: int,
) -> dict[str, float]:
    """Losses on the test splits of both after fine-tuning a copy of ``start``."""
    torch.manual_seed(seed)
    model = copy.deepcopy(start)
    if lora:
        with_lora(model)
    known = new.examples("inner_train", examples)
    generator = torch.Generator().manual_seed(seed)
    count = len(next(iter(known.values())))

    def batch() -> Batch:
        rows = torch.randint(count, (BATCH,), generator=generator)
        return {name: t[rows] for name, t in known.items()}

    driver = make([p for p in model.parameters() if p.requires_grad])
    train(new, model, driver, steps, batch)
    return {"new": loss_on(new, model), "old": loss_on(old, model)}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of every pair, way and optimizer."""
    kinds = dict.fromkeys((r["pair"], r["way"], r["optimizer"]) for r in runs)
    rows = []
    for pair, way, optimizer in kinds:
        own = [r for r in runs if (r["pair"], r["way"], r["optimizer"]) == (pair, way, optimizer)]
        means = {key: fmean(r[key] for r in own) for key in ("new", "old")}
        rows.append({"pair": pair, "way": way, "optimizer": optimizer, **means})
    return rows


def main(
    out: frame.Out = Path("runs/fine_tuning"),
    pretraining: Annotated[int, typer.Option(min=1, help="Steps before.")] = 1500,
    steps: Annotated[int, typer.Option(min=1, help="Steps of fine-tuning.")] = 300,
    examples: Annotated[int, typer.Option(min=1, help="Of the new data.")] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    factors: Annotated[str, typer.Option(help="Values of lr for GMNOptimizer.")] = "1,0.3,0.1",
    weights: frame.Weights = "default",
    threads: frame.Threads = 1,
) -> None:
    """Fine-tune with all optimizers."""
    console = frame.begin(threads)
    made = contestants(steps, weights, tuple(float(f) for f in factors.split(",")))
    runs: list[dict[str, Any]] = []
    before = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("Fine-tuning", total=len(pairs()) * seeds * 2 * len(made))
        for pair, (old, new) in pairs().items():
            for seed in range(seeds):
                start = pretrained(old, pretraining, seed)
                losses = {"new": loss_on(new, start), "old": loss_on(old, start)}
                before.append({"pair": pair, "seed": seed, **losses})
                for way in ("full", "LoRA"):
                    for name, make in made.items():
                        found = tune(new, old, start, make, way == "LoRA", examples, steps, seed)
                        about = {"pair": pair, "way": way, "optimizer": name, "seed": seed}
                        runs.append({**about, **found})
                        progress.advance(bar)
    rows = summary(runs)
    settings = {"pretraining": pretraining, "steps": steps, "examples": examples, "seeds": seeds}
    frame.write_record(
        out / "result.json",
        {**settings, "weights": weights, "before": before, "summary": rows, "runs": runs},
    )
    cells = [[r["pair"], r["way"], r["optimizer"], f"{r['new']:.3f}", f"{r['old']:.3f}"]
             for r in rows]  # fmt: skip
    columns = ("pair", "way", "optimizer", "new data", "old data")
    console.print(frame.table(f"Test losses after {steps} steps", columns, cells))


if __name__ == "__main__":
    typer.run(main)
