"""Read wide networks after narrow ones alone: ``python -m experiments.inr.width_transfer``.

Classifiers of MNIST's INRs learn from SIRENs 2-24-24-1 and are judged, as they are, by SIRENs up to
1024 wide, each fitted to another image from a random initialization of its own. Three ways:

- *plain*: weights as they are, and a metanet that knows how wide layers are;
- *mean field*: weights times their fan-in, slopes of neurons times the width, by those of training
  networks, and a metanet that knows no width (after Transferable Graph Metanetworks, 2026: means
  everywhere, edges rescaled by fan-in). All it says is the same when every neuron is there twice;
- *root*: with square roots of these, by which weights of an initialization have one size at all
  widths.

Each with weights alone and with function access (what the network says at places of the image);
*drawn*, a CNN on the picture, is what can be hoped for. Budget and recipe are those of
:mod:`experiments.inr.classification`. Writes ``result.json`` and ``widths.png``;
a finished (classifier, seed) is not run again with --resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from torch import nn

from experiments import frame
from experiments.inr.classification import Budget, accuracy, train_classifier
from experiments.inr.classifiers import Drawn, EmbeddingMetanet, ProbedMetanet
from experiments.inr.runs import Normalizer, Runs, lacking, runs_before
from experiments.spread import spread
from gmn_opt.figures import legend_below, picture
from gmn_opt.inr import FitConfig, InrSet, SirenConfig, fit_images
from gmn_opt.inr.augmentation import Moves
from gmn_opt.inr.editor import traced
from gmn_opt.meta.seeding import seeded
from tasks.inr_data import SPLITS, load_split

CLASSES = 10
INRS = Path("runs/inrs/widths")
#: Power of the fan-in, and whether widths are known.
WAYS = {"plain": (0.0, True), "mean field": (1.0, False), "root": (0.5, False)}
READS = ("weights", "probes")
DRAWN = "drawn"
#: Of hidden matrices, that are read at once.
_MOST_WEIGHTS = 2**22
BUDGET, FIT = Budget(), FitConfig(pixels=128, check_every=50)
CLASSIFIERS = (*(f"{reads}, {way}" for reads in READS for way in WAYS), DRAWN)


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    widths: of the networks to learn from, and of those to judge by, each with how many networks.
    lr: of the fit at the narrow width; it falls as one over the width.
    """

    train: int = 24
    counts: tuple[int, int] = (6000, 1000)
    widths: tuple[tuple[int, int], ...] = (
        (24, 1000), (32, 500), (64, 500), (128, 300), (256, 300), (512, 200), (1024, 100),
    )  # fmt: skip
    seeds: int = 3
    budget: Budget = BUDGET
    fit: FitConfig = FIT


PRESETS = {
    "smoke": Sizes(
        4, (24, 8), ((4, 8), (8, 4)), 1, Budget(epochs=1, batch=8),
        FitConfig(steps=20, pixels=32, check_every=10),
    ),
    "cpu": Sizes(),
}  # fmt: skip


def main(
    preset: frame.Preset = "cpu",
    inrs: Annotated[Path, typer.Option(help="Where networks are, or will be.")] = INRS,
    out: frame.Out = Path("runs/width_transfer"),
    classifiers: Annotated[str, typer.Option(help="Separated by ;")] = ";".join(CLASSIFIERS),
    resume: frame.Resume = False,
    threads: frame.Threads = 1,
) -> None:
    """See the module; networks are kept in --inrs."""
    console = frame.begin(threads)
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        names = frame.chosen("classifier", classifiers, CLASSIFIERS, ";")
        sizes = PRESETS[preset]
        sets, tests = made(inrs, sizes)
        settings = {"sizes": asdict(sizes), "psnr": psnr_of(tests)}
        path = out / "result.json"
        runs = runs_before(path, settings, resume)
        out.mkdir(parents=True, exist_ok=True)
    for name, seed in lacking(names, range(sizes.seeds), runs):
        record = judged(name, sets, tests, sizes, seed)
        runs.setdefault(name, []).append({"seed": seed, **record})
        console.print(name, seed, record["accuracy"])
        frame.write_record(path, {**settings, "runs": runs})
    draw(runs, out / "widths.png")
    rows = [(n, *(spread(found, 1) for found in row)) for n, row in percents(runs).items()]
    title = f"Right answers in %, learned from width {sizes.train}"
    console.print(frame.table(title, ("", *(str(w) for w, _ in sizes.widths)), rows))


def made(folder: Path, sizes: Sizes) -> tuple[dict[str, InrSet], dict[int, InrSet]]:
    """Networks to learn from by split, and to judge by, by width; fitted where there are none."""
    parts = zip(SPLITS[:2], sizes.counts, strict=True)
    sets = {split: fitted(folder, split, count, sizes.train, sizes) for split, count in parts}
    tests = {w: fitted(folder, "test", count, w, sizes) for w, count in sizes.widths}
    return sets, tests


def fitted(folder: Path, split: str, count: int, width: int, sizes: Sizes) -> InrSet:
    """SIRENs of so many images of a split; what is there is read, and refused if of other fits."""
    counts = [1, 1, 1]
    counts[SPLITS.index(split)] = count
    source = load_split("mnist", split, (counts[0], counts[1], counts[2]), 0)
    return fit_images(
        source.images, SirenConfig(2, 1, (width, width)),
        replace(
            sizes.fit, lr=sizes.fit.lr * sizes.train / width,
            slots=max(1, min(64, 65_536 // width**2)),  # what fits into a cache
        ),
        labels=source.labels, out=folder / f"{split}-{width}-{count}", resume=True,
        seed=1000 * width + SPLITS.index(split),
        about={"data": "mnist", "split": split, "origin": source.origin},
    )  # fmt: skip


def psnr_of(tests: Mapping[int, InrSet]) -> dict[str, float]:
    """How well the networks to judge by show their images, on average, in dB."""
    return {str(width): round(float(found.psnr.mean()), 1) for width, found in tests.items()}


def judged(
    name: str, sets: Mapping[str, InrSet], tests: Mapping[int, InrSet], sizes: Sizes, seed: int
) -> dict[str, Any]:
    """Train a classifier on narrow networks; its accuracy at every width after the last epoch."""
    way = name.partition(", ")[2] or "plain"
    power, knows_sizes = WAYS[way]
    normalizer = Normalizer(sets["train"], power)
    graph = traced(sets["train"].template())
    budget = replace(sizes.budget, moves=Moves(mirror=False))
    device = torch.device("cpu")
    with seeded(seed, device):
        model: nn.Module
        if name == DRAWN:
            model = Drawn(CLASSES, normalizer)
        elif name.startswith("probes"):
            model = ProbedMetanet(graph, CLASSES, normalizer, sizes=knows_sizes)
        else:
            model = EmbeddingMetanet(graph, CLASSES, sizes=knows_sizes)
    narrow = {**sets, "test": tests[sizes.train]}
    record = train_classifier(model, narrow, normalizer, budget, seed, device)
    found = {}
    for width, test in tests.items():
        assert test.labels is not None
        here = at_width(model, test, normalizer)
        batch = max(1, min(100, _MOST_WEIGHTS // width**2))
        found[str(width)] = accuracy(model, here(test.params), test.labels, batch)
    kept = ("parameters", "seconds", "valid_accuracy")
    return {"accuracy": found, **{key: record[key] for key in kept}}


def at_width(model: nn.Module, networks: InrSet, normalizer: Normalizer) -> Normalizer:
    """Let a classifier read networks of another width; how these are to be normalized."""
    assert isinstance(networks.config, SirenConfig)
    there = normalizer.at(networks.config)
    if isinstance(model, EmbeddingMetanet):
        model.graph = traced(networks.template())
    if isinstance(model, ProbedMetanet | Drawn):
        model.use(there)
    return there


def percents(runs: Runs) -> dict[str, list[list[float]]]:
    """Right answers in %, by classifier, width and seed."""
    return {
        name: [[100 * r["accuracy"][w] for r in records] for w in records[0]["accuracy"]]
        for name, records in runs.items()
    }


def draw(runs: Runs, path: Path) -> None:
    """Accuracy over width."""
    with picture(path, 6.5, 4) as figure:
        axes = figure.subplots()
        for number, (name, row) in enumerate(percents(runs).items()):
            widths = [int(w) for w in runs[name][0]["accuracy"]]
            style = "--" if name.startswith("weights") else "-"
            axes.plot(widths, [mean(found) for found in row], f"C{number}{style}", label=name)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="width", ylabel="right, %", ylim=(0, 100))
        legend_below(figure, 3)


if __name__ == "__main__":
    typer.run(main)
