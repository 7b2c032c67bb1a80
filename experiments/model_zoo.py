"""Make a population of small trained classifiers: networks as data.

    python -m experiments.model_zoo --population cnns --networks 4000 --out DIR [--resume]

Batches of networks that share an architecture are trained together. After each, the folder holds a
whole data set (`gmn_opt.predict.NetworkDataset`) with every network at the end of its training and
half way; a run that was stopped goes on with ``--resume``, and ends with the same networks. At the
end, ``--alone`` networks are trained one by one to say what training together is worth. Rates are
by the processor's time, so that they mean the same on a busy machine.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import frame
from experiments.zoo.images import images
from experiments.zoo.networks import build
from experiments.zoo.settings import POPULATIONS, BatchPlan, plan
from experiments.zoo.training import Trained, measure_alone, train_alone, train_batch
from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.predict.store import Store

#: Networks in all, and in a batch.
PRESETS = {"smoke": (32, 8), "cpu": (2000, 40), "gpu": (20000, 200)}


def add_batch(store: Store, batch: BatchPlan, made: Trained) -> None:
    """Write the networks of a batch that did not diverge, at the end and half way."""
    keep = made.finite.nonzero().flatten()
    rows: list[dict[str, Any]] = []
    for at in (1.0, 0.5):
        for i in keep.tolist():
            rows.append(
                {
                    "network": batch.number * len(batch.settings) + i,
                    "batch": batch.number,
                    "at": at,
                    "data": batch.data,
                    **batch.config,
                    **batch.settings[i].to_dict(),
                    **{name: float(m[i]) for name, m in made.metrics.items()},
                }
            )
    both = {n: torch.cat([t[keep], made.half[n][keep]]) for n, t in made.params.items()}
    store.add(graph_of(batch), both, rows)


def graph_of(batch: BatchPlan) -> ParameterGraph:
    """The parameter graph of a batch's architecture."""
    model = build(batch.config, batch.size).eval()
    return trace(model, torch.randn(2, 1, batch.size, batch.size), progress=False)


def make(
    out: Path, population: str, count: int, size: int, seed: int, console: Console
) -> dict[str, Any]:
    """Train what is not there yet; how many networks took how many seconds of the processor."""
    store = Store(out)
    done = {row["batch"] for entry in store.about["shards"] for row in entry["rows"]}
    total = -(-count // size)
    trained, seconds = 0, 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(population, total=total)
        for number in range(total):
            batch = plan(population, number, min(size, count - number * size), seed)
            if number not in done:
                began = time.process_time()
                made = train_batch(batch, images(batch.data, batch.size))
                seconds += time.process_time() - began
                trained += len(batch.settings)
                if bool(made.finite.any()):
                    add_batch(store, batch, made)
                accuracy = float(made.metrics["test_accuracy"].mean())
                said = f"{population}: {batch.config['kind']}, accuracy {accuracy:.2f} on average"
                bar.update(task, description=said)
            bar.advance(task)
    return {"trained": trained, "seconds": seconds, "networks": store.networks // 2}


def alone(population: str, count: int, size: int, seed: int) -> float:
    """Networks per minute, one by one: of each of the first ``count`` batches, one."""
    seconds = 0.0
    for number in range(-1, count):
        batch = plan(population, max(number, 0), size, seed)
        data = images(batch.data, batch.size)
        if number < 0:  # the first one warms up
            train_alone(batch, 0, data)
            continue
        began = time.process_time()
        measure_alone(train_alone(batch, number % size, data), data)
        seconds += time.process_time() - began
    return 60 * count / seconds


def main(
    population: Annotated[str, typer.Option(help=", ".join(POPULATIONS))] = "mlps",
    preset: frame.Preset = "cpu",
    networks: Annotated[int | None, typer.Option(help="How many; by default the preset's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Networks trained at once.")] = None,
    alone_count: Annotated[int, typer.Option("--alone", help="Networks to train one by one.")] = 0,
    seed: frame.Seed = 0,
    out: frame.Out = Path("zoo"),
    resume: frame.Resume = False,
    threads: frame.Threads = 1,
) -> None:
    """Make a zoo in --out."""
    console = frame.begin(threads)
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        frame.choose("population", population, POPULATIONS)
        count, size = networks or PRESETS[preset][0], batch or PRESETS[preset][1]
        wanted = {"population": population, "networks": count, "batch": size, "seed": seed}
        check_folder(out, wanted, resume)
        made = make(out, population, count, size, seed, console)
        facts: dict[str, Any] = {**wanted, **made}
        if made["trained"]:
            facts["per_minute"] = 60 * made["trained"] / made["seconds"]
        if alone_count:
            facts["per_minute_alone"] = alone(population, alone_count, size, seed)
        if made["trained"] and alone_count:
            facts["ratio"] = facts["per_minute"] / facts["per_minute_alone"]
        frame.write_record(out / "result.json", facts)
    numbers = ", ".join(f"{n} {v:.1f}" for n, v in facts.items() if isinstance(v, float))
    console.print(f"{made['networks']} networks in {out}; {numbers}")


def check_folder(out: Path, wanted: dict[str, Any], resume: bool) -> None:
    """Raise ValueError where a zoo is begun already, unless it is to go on with these settings."""
    path = out / "zoo.json"
    if path.exists():
        if not resume:
            raise ValueError(f"{out} holds a zoo. Pass --resume to go on with it.")
        frame.check_settings(f"The zoo in {out}", frame.read_json(path), wanted)
    out.mkdir(parents=True, exist_ok=True)
    frame.write_json(path, wanted)


if __name__ == "__main__":
    typer.run(main)
