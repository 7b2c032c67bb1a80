"""A new user's case: 200 small MLPs of 16 architectures, 160 of them to learn from.

    python -m experiments.predict_small --out DIR

Trains the MLPs (`experiments.model_zoo`), and predicts their test accuracies by the lines of
docs/predict.md, over several splits, by the graph predictor and by all that it is compared to.
``result.json`` has R² and Kendall's tau of every split, and how long a predictor took. Of the graph
predictor, *metanets* are its members without the Gaussian process beside them, and ``share`` is
what it left to the latter; *process* is one alone.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from experiments import frame
from experiments.model_zoo import make
from experiments.spread import plus_minus
from gmn_opt.predict import NetworkDataset, Predictor, fit_predictor

KINDS = ("graph", "process", "trees", "forest", "statnn", "deepsets", "dmc")
#: Networks, how many are trained at once, splits.
PRESETS = {"smoke": (32, 2, 1), "cpu": (200, 13, 5)}
SHARE = 0.8


def judge(data: NetworkDataset, kind: str, split: int) -> dict[str, dict[str, float]]:
    """Fit on 80 % of the networks; R², tau and the time that it took, of the kind and its parts."""
    train, test = data.split(SHARE, seed=split)
    began, used = time.perf_counter(), time.process_time()
    predictor = fit_predictor(train, train.column("test_accuracy"), kind=kind, seed=split)
    spent = {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - used,
    }
    truth = test.column("test_accuracy")
    found = {kind: {**predictor.score(test, truth), **spent}}
    if kind == "graph" and isinstance(predictor, Predictor):
        found[kind]["share"], predictor.share = predictor.share, 0.0
        found["metanets"] = predictor.score(test, truth)
    return found


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Every split, with mean and standard deviation over splits."""
    made: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        made[name] = {"mean": statistics.fmean(values), "values": values}
        made[name]["std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return made


def show(console: Console, found: dict[str, Any], title: str) -> None:
    """A table of all kinds."""
    rows = [
        (kind, *(plus_minus(s[n]["mean"], s[n]["std"]) for n in ("r2", "tau")),
         f"{s['seconds']['mean']:.1f}" if "seconds" in s else "")
        for kind, s in found.items()
    ]  # fmt: skip
    console.print(frame.table(title, ("kind", "R²", "tau", "seconds"), rows))


def main(
    preset: frame.Preset = "cpu",
    kinds: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(KINDS),
    seed: frame.Seed = 0,
    out: frame.Out = Path("predict_small"),
    threads: frame.Threads = 1,
) -> None:
    """Measure predictors on 200 small MLPs."""
    console = frame.begin(threads)
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        wanted = frame.chosen("kind", kinds, KINDS)
        count, size, splits = PRESETS[preset]
        made = make(out / "zoo", "mlps", count, size, seed, console)
        data = NetworkDataset.load(out / "zoo").where(lambda row: row["at"] == 1.0)
        accuracy = data.column("test_accuracy")
        facts: dict[str, Any] = {
            "preset": preset,
            "seed": seed,
            "networks": made["networks"],
            "architectures": len({id(n.graph) for n in data}),
            "accuracy": {"mean": float(accuracy.mean()), "std": float(accuracy.std())},
            "train_share": SHARE,
            "kinds": {},
        }
        torch.manual_seed(seed)
        for kind in wanted:
            rows = [judge(data, kind, split) for split in range(splits)]
            facts["kinds"] |= {part: summary([row[part] for row in rows]) for part in rows[0]}
            frame.write_record(out / "result.json", facts)
    show(console, facts["kinds"], f"{made['networks']} MLPs, {splits} splits")


if __name__ == "__main__":
    typer.run(main)
