"""What an image shows, read from weights alone: ``python -m experiments.inr_classification``.

Classifies Fashion-MNIST INRs (SIREN 2-32-32-1, one per image, fitted from independent random
initializations) by a graph metanet and by the baselines, with the same data, epochs, optimizer,
schedule, augmentation and normalization for all; the time that each takes is reported beside its
accuracy. Everybody reads SIRENs brought to one representative of the sine's symmetries, each
tensor divided by its standard deviation over the training set, and in training moved images (see
gmn_opt/inr/augmentation.py). The epoch of the best validation accuracy counts. Writes
``result.json`` and ``accuracy.png`` to --out; a finished (model, seed) is not run again with
--resume.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments import make_inrs
from experiments.common import choose_device, keep_freed_memory, refusing
from experiments.inr_classifiers import CLASSIFIERS
from experiments.inr_runs import (
    Normalizer,
    Runs,
    plain,
    runs_before,
    set_rate,
    summary,
    write_runs,
)
from gmn_opt.inr import InrSet, Params, load_inr_set
from gmn_opt.inr.augmentation import Moves, moved
from gmn_opt.inr.editor import traced
from gmn_opt.meta.seeding import seeded
from gmn_opt.weights.atomic import write_atomically


@dataclass(frozen=True)
class Budget:
    """What every classifier gets."""

    epochs: int = 20
    batch: int = 64
    lr: float = 5e-3
    weight_decay: float = 1e-2
    clip: float = 1.0
    moves: Moves | None = field(default_factory=Moves)


PRESETS = {"smoke": Budget(epochs=2, batch=8), "cpu": Budget()}


#: How the INRs are fitted: on sampled pixels, which takes weights further from where they began
#: than all pixels do, to the same PSNR. All classifiers find them easier to read.
RECIPE: dict[str, Any] = {"pixels": 128, "check_every": 50}
MEASURE = "test_accuracy"
#: Training networks that running statistics are taken from.
_PROBE = 1024


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Params, labels: Tensor, batch: int = 250) -> float:
    """Share of networks classified right."""
    model.eval()
    right = 0
    for start in range(0, len(labels), batch):
        some = {n: p[start : start + batch] for n, p in inputs.items()}
        right += int((model(some).argmax(-1) == labels[start : start + batch]).sum())
    model.train()
    return right / len(labels)


@torch.no_grad()
def measure_statistics(model: nn.Module, inputs: Params, batch: int) -> None:
    """Set running statistics to averages over ``inputs``: those of training lag behind."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    kept = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # a plain average
    count = len(next(iter(inputs.values())))
    for start in range(0, count - batch + 1, batch):
        model({n: p[start : start + batch] for n, p in inputs.items()})
    for m, momentum in zip(norms, kept, strict=True):
        m.momentum = momentum


def train_classifier(
    model: nn.Module,
    sets: Mapping[str, InrSet],
    budget: Budget,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Train and judge one classifier; returns its record."""
    normalizer = Normalizer(sets["train"])
    data: dict[str, tuple[Params, Tensor]] = {}
    for split, found in sets.items():
        assert found.labels is not None
        params = {n: p.to(device) for n, p in found.params.items()}
        data[split] = params, found.labels.to(device)
    known = {s: normalizer(data[s][0]) for s in ("valid", "test")}
    params, labels = data["train"]
    probe = normalizer({n: p[:_PROBE] for n, p in params.items()})
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=budget.lr, weight_decay=budget.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    per_epoch = max(1, len(labels) // budget.batch)
    total, step, seconds = budget.epochs * per_epoch, 0, 0.0
    curve: list[dict[str, float]] = []
    for epoch in range(budget.epochs):
        started, losses = time.perf_counter(), []
        order = torch.randperm(len(labels), generator=generator).to(device)
        for chosen in order.split(budget.batch)[:per_epoch]:
            some = {n: p[chosen] for n, p in params.items()}
            if budget.moves is not None:
                some = moved(some, budget.moves, generator)
            loss = cross_entropy(model(normalizer(some)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), budget.clip)
            set_rate(optimizer, budget.lr, step, total, warm=100)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        measure_statistics(model, probe, budget.batch)
        seconds += time.perf_counter() - started
        curve.append(
            {
                "epoch": epoch + 1,
                "seconds": round(seconds, 2),
                "train_loss": sum(losses) / len(losses),
                "valid_accuracy": accuracy(model, known["valid"], data["valid"][1]),
                "test_accuracy": accuracy(model, known["test"], data["test"][1]),
            }
        )
    best = max(curve, key=lambda point: point["valid_accuracy"])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 1),
        "best_epoch": best["epoch"],
        "valid_accuracy": best["valid_accuracy"],
        "test_accuracy": best["test_accuracy"],
        "curve": curve,
    }


def plot(runs: Runs, path: Path) -> None:
    """Test accuracy over epochs, and over seconds; one line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for number, (name, records) in enumerate(runs.items()):
        for i, record in enumerate(records):
            values = [100 * p["test_accuracy"] for p in record["curve"]]
            for axis, key in zip(axes, ("epoch", "seconds"), strict=True):
                at = [p[key] for p in record["curve"]]
                axis.plot(at, values, f"C{number}", linewidth=1, label=None if i else name)
    axes[0].set_xlabel("epoch")
    axes[1].set_xlabel("seconds of training")
    axes[1].set_xscale("log")
    axes[0].set_ylabel("test accuracy (%)")
    axes[0].legend(fontsize=7)
    write_atomically(path, lambda p: figure.savefig(p, dpi=130, format="png"))


def table(found: Mapping[str, dict[str, float]]) -> Table:
    """A line per classifier, best first."""
    made = Table(title="Fashion-MNIST INRs, test accuracy over seeds")
    for column in ("classifier", "accuracy", "+-", "parameters", "seconds"):
        made.add_column(column, justify="right")
    for name, f in sorted(found.items(), key=lambda pair: -pair[1]["test_accuracy_mean"]):
        made.add_row(
            name, f"{f['test_accuracy_mean']:.1%}", f"{f['test_accuracy_std']:.1%}",
            f"{f['parameters']:,}", f"{f['seconds_mean']:.0f}",
        )  # fmt: skip
    return made


def main(
    preset: Annotated[str, typer.Option(help="smoke or cpu")] = "cpu",
    out: Annotated[Path, typer.Option()] = Path("runs/inr_classification"),
    inrs: Annotated[Path | None, typer.Option(help="Folder of INRs; by default made.")] = None,
    models: Annotated[str, typer.Option(help="Which classifiers.")] = ",".join(CLASSIFIERS),
    seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    seeds: Annotated[int, typer.Option(help="Runs per classifier.")] = 3,
    epochs: Annotated[int | None, typer.Option()] = None,
    resume: Annotated[bool, typer.Option(help="Keep the runs in --out that are done.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train and compare classifiers of INRs."""
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(threads)
    keep_freed_memory()
    names = models.split(",")
    with refusing(console):
        if preset not in PRESETS or not set(names) <= CLASSIFIERS.keys():
            raise ValueError(
                f"Choose a preset of {', '.join(PRESETS)} and models of {', '.join(CLASSIFIERS)}; "
                f"received {preset!r} and {models!r}."
            )
        where = choose_device(device)
        suffix = "" if preset == "cpu" else f"-{preset}"
        folder = inrs or Path("runs/inrs") / f"fashion_mnist_sampled{suffix}"
        if not (folder / "dataset.json").exists():
            make_inrs.main(data="fashion_mnist", out=folder, preset=preset, resume=True, **RECIPE)
        sets = {split: load_inr_set(folder / split) for split in ("train", "valid", "test")}
        if any(s.labels is None for s in sets.values()):
            raise ValueError(f"The INRs in {folder} have no labels; there is nothing to classify.")
    budget = PRESETS[preset]
    if epochs is not None:
        budget = Budget(**{**asdict(budget), "epochs": epochs, "moves": budget.moves})
    settings = plain(
        {
            "budget": asdict(budget),
            "inrs": sets["train"].manifest,
            "networks": {split: len(s) for split, s in sets.items()},
            "initialization": "independent for every INR",
        }
    )
    path = out / "result.json"
    with refusing(console):
        runs = runs_before(path, settings, resume)
        out.mkdir(parents=True, exist_ok=True)
    graph = traced(sets["train"].template())
    labels = sets["train"].labels
    assert labels is not None
    for number in range(seed, seed + seeds):
        for name in names:
            done = {r["seed"] for r in runs.get(name, [])}
            if number in done:
                continue
            with seeded(number, where):
                model = CLASSIFIERS[name](graph, int(labels.max()) + 1)
            record = train_classifier(model, sets, budget, number, where)
            runs.setdefault(name, []).append({"seed": number, **record})
            console.print(
                f"{name}, seed {number}: {record['test_accuracy']:.1%} "
                f"in {record['seconds']:.0f} s, epoch {record['best_epoch']}"
            )
            write_runs(path, settings, runs, MEASURE)
    plot(runs, out / "accuracy.png")
    console.print(table(summary(runs, MEASURE)))


if __name__ == "__main__":
    typer.run(main)
