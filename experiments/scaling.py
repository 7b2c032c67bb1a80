"""Width 16 to 1024, depth 2 to 16: ``python -m experiments.scaling --out runs/scaling``.

The same weights train networks far narrower, wider and deeper than those of meta-training: dense
nets on Fashion-MNIST (28 pixels), two hidden layers of each width, and each depth of hidden layers
of 64 with layer norm. GMNOptimizer with ``total_steps`` beside Muon at 0.02 and AdamW at 3e-3 with
warmup and cosine, from the same weights on the same batches. Writes ``result.json`` and
``curves.png``. With ``--baselines`` losses of Muon and AdamW are those of an earlier record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.progress import Progress

from experiments import frame
from experiments.comparison.cells import Cell
from experiments.comparison.running import Settings, run_cell
from experiments.comparison.summary import numbers
from gmn_opt.cli.bench import contestants
from gmn_opt.figures import legend_below, log_numbers, picture
from tasks.classification import ImageClassification

#: Method, its rate, and what people read.
CONTESTANTS = {
    "gmn_total_steps": (None, "GMN, total_steps"),
    "muon_cosine": (0.02, "Muon 0.02, cosine"),
    "adamw_cosine": (0.003, "AdamW 0.003, cosine"),
}
LOSSES = ("train_loss", "test_loss")
NARROW = 64
WIDTHS, DEPTHS = "16,32,64,128,256,512,1024", "2,4,8,16"


def tasks_of(widths: Sequence[int], depths: Sequence[int]) -> list[tuple[str, int, Any]]:
    """What varies, its value, and the task."""

    def task(hidden: tuple[int, ...], norm: str) -> ImageClassification:
        return ImageClassification("fashion_mnist", 28, hidden, norm=norm, batch_size=128)

    return [
        *(("width", w, task((w, w), "none")) for w in widths),
        *(("depth", d, task((NARROW,) * d, "layer")) for d in depths),
    ]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Final training loss over width and over depth."""
    with picture(path, 9, 4) as figure:
        for axes, what in zip(figure.subplots(1, 2), ("width", "depth"), strict=True):
            for _, title in CONTESTANTS.values():
                own = [r for r in rows if r["what"] == what and r["optimizer"] == title]
                losses = [r["train_loss"] for r in own]
                axes.plot([r["value"] for r in own], losses, "o-", label=title)
            values = sorted({r["value"] for r in rows if r["what"] == what})
            axes.set_xscale("log")
            axes.set_xticks(values, [str(v) for v in values])
            axes.set_xticks([], minor=True)
            axes.set_xlabel("width of two layers" if what == "width" else "layers of width 64")
            axes.set_ylabel("final training loss")
            log_numbers(axes)
        legend_below(figure)


def mean_losses(
    task: ImageClassification,
    method: str,
    steps: int,
    seeds: int,
    settings: Settings,
    advance: Callable[[], None],
) -> dict[str, float]:
    """Over all runs, infinite where one broke; ``advance`` is called after each."""
    runs: list[dict[str, Any]] = []
    for number in range(seeds):
        cell = Cell(task.name, steps, method, CONTESTANTS[method][0], number)
        run = run_cell(task.spec(), cell, settings)
        assert run is not None  # that is for a deadline, and there is none
        runs.append(run)
        advance()
    return {name: fmean(numbers([run[name] for run in runs])) for name in LOSSES}


def earlier(
    record: Mapping[str, Any],
    folder: Path,
    given: Sequence[tuple[str, int, Any]],
    about: Mapping[str, Any],
) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Rows of all but the learned rule, from a record, by what varies, value and optimizer.

    Raises ValueError for the record in ``folder`` if it has other steps or seeds, or lacks a row.
    """
    frame.check_record(folder, record, about)
    rows = {(r["what"], r["value"], r["optimizer"]): r for r in record["rows"]}
    wanted = [
        (what, value, title)
        for what, value, _ in given
        for method, (_, title) in CONTESTANTS.items()
        if not contestants.CONTESTANTS[method].learned
    ]
    lacking = [key for key in wanted if key not in rows]
    if lacking:
        what, value, title = lacking[0]
        raise ValueError(
            f"The record in {folder} lacks {len(lacking)} of {len(wanted)} rows, {title} at "
            f"{what} {value} among them. Give its widths and depths, or leave --baselines out."
        )
    return {key: rows[key] for key in wanted}


def main(
    out: frame.Out = Path("runs/scaling"),
    widths: Annotated[str, typer.Option(help="Of two hidden layers.")] = WIDTHS,
    depths: Annotated[str, typer.Option(help="Hidden layers of 64, with layer norm.")] = DEPTHS,
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 1,
    seed: frame.Seed = 2024,
    weights: frame.Weights = "default",
    baselines: Annotated[
        Path | None, typer.Option(help="Folder with a record: Muon and AdamW are from there.")
    ] = None,
    threads: frame.Threads = 1,
) -> None:
    """Train all networks with all optimizers."""
    console = frame.begin(threads)
    about = {"steps": steps, "seeds": seeds, "seed": seed}
    with frame.refusing(console):
        given = tasks_of(frame.numbers(widths, "--widths"), frame.numbers(depths, "--depths"))
        known, origin = {}, {}
        if baselines is not None:
            record = frame.read_json(baselines / "result.json")
            known = earlier(record, baselines, given, about)
            origin = {"baselines": record["environment"]}
    settings = Settings(weights=weights, probes=1, seed=seed)
    rows: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(
            "Networks", total=(len(given) * len(CONTESTANTS) - len(known)) * seeds
        )
        for what, value, task in given:
            for method, (_, title) in CONTESTANTS.items():
                row = known.get((what, value, title))
                if row is None:
                    losses = mean_losses(
                        task, method, steps, seeds, settings, lambda: progress.advance(bar)
                    )
                    row = {"what": what, "value": value, "optimizer": title, **losses}
                rows.append(row)
    facts = {**about, "weights": weights, "rows": rows, **origin}
    frame.write_record(out / "result.json", facts)
    plot(rows, out / "curves.png")
    cells = [[r["what"], str(r["value"]), r["optimizer"], f"{r['train_loss']:.2e}",
              f"{r['test_loss']:.3f}"] for r in rows]  # fmt: skip
    columns = ("", "value", "optimizer", "training loss", "test loss")
    console.print(frame.table(f"After {steps} steps", columns, cells))


if __name__ == "__main__":
    typer.run(main)
