"""Weights side by side on the tasks that choose between checkpoints of meta-training.

``python -m experiments.validate_weights --weights default --weights runs/cpu/best.safetensors``:
the measure of :mod:`gmn_opt.meta.validation`, for all on the same initializations and batches. With
the default --steps and --networks it is the one by which ``experiments.meta_train`` keeps its best
checkpoint. Writes ``result.json`` to --out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments import frame
from gmn_opt.meta import MetaConfig, World
from gmn_opt.meta.validation import METRIC, Validation, score
from gmn_opt.optim import load_rule
from tasks.suites import validation


def table(found: dict[str, dict[str, Any]]) -> Table:
    """A line per task, a column per set of weights."""
    tasks = next(iter(found.values()))["ratios"]
    rows = [[task, *(f"{f['ratios'][task]:.3f}" for f in found.values())] for task in tasks]
    rows.append(["score", *(f"{f['score']:.4f}" for f in found.values())])
    return frame.table("final training loss / that of the untrained rule", ["task", *found], rows)


def main(
    weights: Annotated[list[str], typer.Option(help="Shipped name or safetensors file.")],
    out: frame.Out = Path("runs/validate_weights"),
    steps: Annotated[int, typer.Option(help="Per task.")] = MetaConfig.validation_steps,
    networks: Annotated[int, typer.Option(help="Per task.")] = MetaConfig.validation_networks,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 1234,
    device: frame.Device = "auto",
    threads: frame.Threads = 1,
) -> None:
    """Train the validation tasks with every set of weights."""
    console = frame.begin(threads)
    found: dict[str, dict[str, Any]] = {}
    with frame.refusing(console):
        rules = {name: load_rule(name) for name in weights}  # refuses all before it trains one
        where = frame.choose_device(device)
        measure = Validation(validation(), steps, networks, seed, where)
        for name, rule in rules.items():
            ratios = measure.ratios(rule.to(where), World())
            found[name] = {"score": score(ratios), "ratios": ratios}
    facts = {"metric": METRIC, "steps": steps, "networks": networks, "seed": seed}
    facts |= {"reference_losses": measure.reference, "weights": found}
    frame.write_record(out / "result.json", facts)
    console.print(table(found))


if __name__ == "__main__":
    typer.run(main)
