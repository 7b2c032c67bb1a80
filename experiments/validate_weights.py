"""Weights side by side on the tasks that choose between checkpoints of meta-training.

``python -m experiments.validate_weights --weights default --weights runs/cpu/best.safetensors``:
the measure of :mod:`gmn_opt.meta.validation`, for all on the same initializations and batches. With
the default --steps and --networks it is the one by which ``experiments.meta_train`` keeps its best
checkpoint. Writes ``result.json`` to --out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from experiments.common import (
    choose_device,
    command_line,
    environment,
    keep_freed_memory,
    refusing,
)
from gmn_opt.meta import MetaConfig, World
from gmn_opt.meta.validation import METRIC, Validation, score
from gmn_opt.optim import load_rule
from gmn_opt.weights.atomic import write_atomically
from tasks.suites import validation


def table(found: dict[str, dict[str, Any]]) -> Table:
    """A line per task, a column per set of weights."""
    made = Table(title="final training loss / that of the untrained rule")
    made.add_column("task")
    for name in found:
        made.add_column(name, justify="right", overflow="fold")
    for task in next(iter(found.values()))["ratios"]:
        made.add_row(task, *(f"{facts['ratios'][task]:.3f}" for facts in found.values()))
    made.add_section()
    made.add_row("score", *(f"{facts['score']:.4f}" for facts in found.values()))
    return made


def main(
    weights: Annotated[list[str], typer.Option(help="Shipped name or safetensors file.")],
    out: Annotated[Path, typer.Option()] = Path("runs/validate_weights"),
    steps: Annotated[int, typer.Option(help="Per task.")] = MetaConfig.validation_steps,
    networks: Annotated[int, typer.Option(help="Per task.")] = MetaConfig.validation_networks,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 1234,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    threads: Annotated[int, typer.Option()] = 1,
) -> None:
    """Train the validation tasks with every set of weights."""
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(threads)
    keep_freed_memory()
    found: dict[str, dict[str, Any]] = {}
    with refusing(console):
        rules = {name: load_rule(name) for name in weights}  # refuses all before it trains one
        where = choose_device(device)
        measure = Validation(validation(), steps, networks, seed, where)
        for name, rule in rules.items():
            ratios = measure.ratios(rule.to(where), World())
            found[name] = {"score": score(ratios), "ratios": ratios}
    record = {
        "command": command_line(),
        "metric": METRIC,
        "steps": steps,
        "networks": networks,
        "seed": seed,
        "reference_losses": measure.reference,
        "weights": found,
        "environment": environment(),
    }
    text = json.dumps(record, indent=1) + "\n"
    write_atomically(out / "result.json", lambda path: path.write_text(text, encoding="utf-8"))
    console.print(table(found))


if __name__ == "__main__":
    typer.run(main)
