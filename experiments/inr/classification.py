"""What an image shows, read from its INR's weights: ``python -m experiments.inr.classification``.

Classifies INRs of Fashion-MNIST or MNIST (SIREN 2-32-32-1, one per image, fitted from independent
random initializations) by graph metanets and by baselines, with the same data, epochs, optimizer,
schedule, augmentation and normalization for all; the time that each takes is reported beside its
accuracy. Most read weights alone; those that also know what the network says at places of the
image are listed in the record. Everybody reads SIRENs brought to one representative of the sine's
symmetries, each tensor divided by its standard deviation over the training set, and in training
moved images (see gmn_opt/inr/augmentation.py). The epoch of the best validation accuracy counts.
Writes ``result.json`` and ``accuracy.png`` to --out; a finished (model, seed) is not run again
with --resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments import frame
from experiments.inr.classifiers import CLASSIFIERS, LISTENING
from experiments.inr.data import folder_of, load_or_make
from experiments.inr.runs import (
    Normalizer,
    Runs,
    compare,
    epochs,
    runs_before,
    summary_table,
)
from gmn_opt.figures import legend_below, picture
from gmn_opt.inr import InrSet, Params
from gmn_opt.inr.augmentation import Moves, moved
from gmn_opt.inr.editor import traced
from gmn_opt.meta.seeding import seeded


@dataclass(frozen=True)
class Budget:
    """What every classifier gets."""

    epochs: int = 20
    batch: int = 64
    lr: float = 5e-3
    weight_decay: float = 1e-2
    moves: Moves | None = field(default_factory=Moves)


PRESETS = {"smoke": Budget(epochs=2, batch=8), "cpu": Budget()}
#: Data sets, and whether what an image shows survives a mirror.
MIRRORED = {"fashion_mnist": True, "mnist": False}

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
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
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
    normalizer: Normalizer,
    budget: Budget,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Train and judge one classifier; returns its record."""
    data: dict[str, tuple[Params, Tensor]] = {}
    for split, found in sets.items():
        assert found.labels is not None
        params = {n: p.to(device) for n, p in found.params.items()}
        data[split] = params, found.labels.to(device)
    known = {s: normalizer(data[s][0]) for s in ("valid", "test")}
    params, labels = data["train"]
    probe = normalizer({n: p[:_PROBE] for n, p in params.items()})
    model.to(device)

    def loss_of(chosen: Tensor, generator: torch.Generator) -> Tensor:
        some = {n: p[chosen] for n, p in params.items()}
        if budget.moves is not None:
            some = moved(some, budget.moves, generator)
        return cross_entropy(model(normalizer(some)), labels[chosen])

    def after() -> None:
        measure_statistics(model, probe, budget.batch)

    curve: list[dict[str, float]] = []
    for point in epochs(model, len(labels), budget, seed, device, loss_of, 100, after):
        point["train_loss"] = point.pop("loss")
        for split in ("valid", "test"):
            point[f"{split}_accuracy"] = accuracy(model, known[split], data[split][1])
        curve.append(point)
    best = max(curve, key=lambda point: point["valid_accuracy"])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(curve[-1]["seconds"], 1),
        "best_epoch": best["epoch"],
        "valid_accuracy": best["valid_accuracy"],
        "test_accuracy": best["test_accuracy"],
        "curve": curve,
    }


def plot(runs: Runs, path: Path) -> None:
    """Test accuracy over epochs, and over seconds; one line per seed."""
    with picture(path, 8, 3.8) as figure:
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
        legend_below(figure, 4)


def main(
    preset: Annotated[str, typer.Option(help="smoke or cpu")] = "cpu",
    data: Annotated[str, typer.Option(help=", ".join(MIRRORED))] = "fashion_mnist",
    out: frame.Out = Path("runs/inr_classification"),
    inrs: Annotated[Path | None, typer.Option(help="Folder of INRs; by default made.")] = None,
    models: Annotated[str, typer.Option(help="Which classifiers.")] = ",".join(CLASSIFIERS),
    seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    seeds: Annotated[int, typer.Option(help="Runs per classifier.")] = 3,
    epochs: Annotated[int | None, typer.Option()] = None,
    resume: frame.Resume = False,
    device: frame.Device = "auto",
    threads: frame.Threads = 1,
) -> None:
    """Train and compare classifiers of INRs."""
    console = frame.begin(threads)
    path = out / "result.json"
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        frame.choose("data", data, MIRRORED)
        names = frame.chosen("model", models, CLASSIFIERS)
        where = frame.choose_device(device)
        folder = inrs or folder_of(f"{data}_sampled", preset)
        sets = load_or_make(folder, data, preset, **RECIPE)
        labels = sets["train"].labels
        if labels is None or any(s.labels is None for s in sets.values()):
            raise ValueError(f"The INRs in {folder} have no labels; there is nothing to classify.")
        budget = replace(PRESETS[preset], moves=Moves(mirror=MIRRORED[data]))
        budget = budget if epochs is None else replace(budget, epochs=epochs)
        settings = {
            "budget": asdict(budget),
            "inrs": sets["train"].manifest,
            "networks": {split: len(s) for split, s in sets.items()},
            "initialization": "independent for every INR",
            "function access": [n for n in CLASSIFIERS if n in LISTENING],
        }
        runs = runs_before(path, settings, resume)
        out.mkdir(parents=True, exist_ok=True)
    graph, classes = traced(sets["train"].template()), int(labels.max()) + 1
    normalizer = Normalizer(sets["train"])

    def run(name: str, number: int) -> dict[str, Any]:
        with seeded(number, where):
            model = CLASSIFIERS[name](graph, classes, normalizer)
        return train_classifier(model, sets, normalizer, budget, number, where)

    compare(names, range(seed, seed + seeds), run, path, settings, runs, MEASURE, console)
    plot(runs, out / "accuracy.png")
    console.print(summary_table(f"INRs of {data}", runs, MEASURE, highest=True))


if __name__ == "__main__":
    typer.run(main)
