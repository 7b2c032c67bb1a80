"""Seeded runs whose losses a rebuilding must not change: record, and compare with a record.

    python -m experiments.benchmarks.same_numbers --out before.json
    python -m experiments.benchmarks.same_numbers --out after.json --compare before.json

A 50-step training by ``GMNOptimizer`` of a small MLP and a small CNN, 20 outer steps of
meta-training, 12 steps of training an editor, and an edit by the editor of dilation that ships,
each in float64 and float32 where it can be. It uses public names only, so that this one file, put
into a checkout of another commit, runs there. Numbers compare on one machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gmn_opt import GMNOptimizer
from gmn_opt.data import load_bundled
from gmn_opt.inr import (
    EditorConfig,
    FitConfig,
    SirenConfig,
    WeightEditor,
    fit_images,
    load_editor,
    render,
)
from gmn_opt.meta import Batch, MetaConfig, MetaTrainer, Split, TruncatedBackprop, Uniform
from gmn_opt.optim import RuleConfig
from tasks.classification import ImageClassification
from tasks.suites import MetaTrainSuite, validation

try:
    from gmn_opt.inr import EditTrainer, TrainConfig
except ImportError:  # the trainer's earlier place
    from experiments.inr_edit_training import EditTrainer, TrainConfig  # type: ignore

#: float64 numbers of the runs, by name of the run.
Record = dict[str, list[float]]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10),
    )  # fmt: skip


def trained(build: Callable[[], nn.Module], dtype: torch.dtype, total: int | None) -> list[float]:
    """Training losses of 50 steps of ``GMNOptimizer`` on 8 x 8 images."""
    data = load_bundled("mnist")
    images = data.train_images[:512].reshape(-1, 1, 28, 28).to(dtype) / 255
    images = nn.functional.adaptive_avg_pool2d(images, 8)
    labels = data.train_labels[:512]
    torch.manual_seed(0)
    model = build().to(dtype)
    optimizer = GMNOptimizer(model.parameters(), total_steps=total)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(50):
        chosen = torch.randint(len(images), (32,), generator=generator)
        loss = cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@dataclass(frozen=True)
class _Float64(ImageClassification):
    def batch(self, split: Split, count: int, generator: torch.Generator) -> Batch:
        batch = super().batch(split, count, generator)
        return {**batch, "x": batch["x"].double()}


_SMALL = (
    _Float64("mnist", 8, (6, 5), activation="tanh", batch_size=12),
    _Float64("mnist", 8, (3, 4), kind="cnn", norm="group", activation="gelu", batch_size=8),
)


@dataclass(frozen=True)
class _Small:
    """A source of float64 tasks."""

    def sample(self, generator: torch.Generator) -> _Float64:
        return _SMALL[int(torch.randint(len(_SMALL), (), generator=generator))]

    def restore(self, spec: dict[str, Any]) -> _Float64:
        raise NotImplementedError


def meta_trained(dtype: str) -> list[float]:
    """Losses, meta-losses and norms of 20 outer steps, then the scores of two validations."""
    config = MetaConfig(
        meta_steps=20, runs=3, meta_batch=2, max_networks=2, warmup=2, horizon=(8, 20),
        estimator=TruncatedBackprop(Uniform(4, 6)), validate_every=10, validation_steps=6,
        validation_networks=1, rule=RuleConfig(hidden=8, edge_hidden=2, layers=1), dtype=dtype,
    )  # fmt: skip
    if dtype == "float64":
        trainer = MetaTrainer(_Small(), replace(config, validate_every=0))
    else:
        trainer = MetaTrainer(MetaTrainSuite(), config, "cpu", validation()[:2])
    steps = list(trainer.train())
    found = [v for s in steps for v in (s.loss, s.meta_loss, s.grad_norm)]
    average = torch.cat([p.flatten() for p in trainer.averaged_rule().parameters()])
    return [*found, *(v["score"] for v in trainer.validations), *average.double().tolist()]


def edited() -> Record:
    """Losses of a small editor's training, and what edited INRs of four digits show."""
    images = load_bundled("mnist").train_images[:4]
    data = fit_images(images, SirenConfig(), FitConfig(steps=60, target_psnr=None))
    torch.manual_seed(0)
    kind = EditorConfig(hidden=8, edge_hidden=4, layers=2, rounds=2, vision=4)
    trainer = EditTrainer(
        [data], "dilate", WeightEditor(data.config, kind),
        TrainConfig(steps=12, batch=4), 0, torch.device("cpu"),
    )  # fmt: skip
    found = {"editor training, float32": [trainer.advance() for _ in range(12)]}
    weights = [p.flatten() for p in trainer.result().parameters()]
    found["editor training, float32"] += torch.cat(weights).double().tolist()
    for dtype in (torch.float64, torch.float32):
        editor = load_editor("inr-dilate-grey").to(dtype)
        inr = data.template().to(dtype)
        with torch.no_grad():
            done = editor({n: p.to(dtype) for n, p in data.params.items()}, data.config)
            shown: Tensor = render(inr, (28, 28), done)
        found[f"edit, {str(dtype).removeprefix('torch.')}"] = shown.double().flatten().tolist()
    return found


def measure() -> Record:
    """All runs."""
    found: Record = {}
    for dtype in (torch.float64, torch.float32):
        name = str(dtype).removeprefix("torch.")
        found[f"optimizer on an MLP, {name}"] = trained(_mlp, dtype, 50)
        found[f"optimizer on a CNN, {name}"] = trained(_cnn, dtype, None)
        found[f"meta-training, {name}"] = meta_trained(name)
    return {**found, **edited()}


def difference(mine: list[float], other: list[float]) -> float:
    """The largest, relative to the larger of 1 and the number; NaN equals NaN."""
    a, b = torch.tensor(mine, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    if a.shape != b.shape:
        return torch.inf
    apart = (a - b).abs() / b.abs().clamp_min(1.0)
    apart = apart.masked_fill(a.isnan() & b.isnan(), 0.0).nan_to_num(nan=torch.inf)
    return float(apart.max())


def main(
    out: Annotated[Path | None, typer.Option(help="File for the record.")] = None,
    compare: Annotated[Path | None, typer.Option(help="A record, of another commit.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Exit with code 1 if float64 runs differ by more.")
    ] = None,
) -> None:
    """Record the losses of seeded runs, and compare them with those of a record."""
    torch.set_num_threads(1)
    found = measure()
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    before: Record = {} if compare is None else json.loads(compare.read_text(encoding="utf-8"))
    worst = 0.0
    for name, values in found.items():
        line = f"{name:32} {len(values):5} numbers, first {values[0]:.17g}"
        if name in before:
            apart = difference(values, before[name])
            line += f"   largest difference {apart:.3g}" if apart else "   the same bit by bit"
            if name.endswith("float64"):
                worst = max(worst, apart)
        print(line)
    if tolerance is not None and worst > tolerance:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
