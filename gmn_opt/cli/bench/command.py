"""`gmn-opt bench`: optimizers side by side on a model of your own."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from gmn_opt.cli.errors import fail
from gmn_opt.cli.frame import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from gmn_opt.cli.bench.contestants import Contestant
    from gmn_opt.cli.bench.factory import Given

_DEFAULT = ("gmn_total_steps", "gmn", "adamw", "adamw_cosine", "muon_cosine")


def bench(
    factory: Annotated[str, typer.Argument(metavar="MODULE:FACTORY", help="Or FILE.py:FACTORY.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of every run.")] = 300,
    optimizers: Annotated[
        list[str] | None,
        typer.Option("--optimizer", metavar="NAME", help="Only this one. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    judged: Annotated[
        int, typer.Option(min=1, help="The first batches, which the training loss is the mean of.")
    ] = 8,
    weights: Annotated[str, typer.Option(help="Of the learned rule, name or file.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train your own model with GMNOptimizer, AdamW and Muon, and print who got how far.

    The factory is a function without arguments that returns model, loss,
    batches, and test batches if there are any: loss(model, batch) gives a
    scalar; batches are a DataLoader or any other iterable, or a function that
    gives the next batch. It is called anew for every run, after
    torch.manual_seed, so that all start alike. GMNOptimizer runs without any
    setting, the others at every rate of a grid.
    """
    from gmn_opt.cli.bench.contestants import choose
    from gmn_opt.cli.bench.factory import load
    from gmn_opt.optim import load_rule

    try:
        chosen = choose(list(optimizers or _DEFAULT))
        load_rule(weights)
    except (ValueError, ImportError, OSError) as error:
        fail(str(error))
    make = load(factory)
    screen = console(stderr=as_json)
    jobs = [(c, rate) for c in chosen for rate in c.rates or (None,)]
    rows = [
        _run(make, c, rate, steps, seed, judged, weights)
        for c, rate in track(jobs, "training", console=screen, transient=True)
    ]
    if as_json:
        sys.stdout.write(json.dumps({"factory": factory, "steps": steps, "runs": rows}) + "\n")
    else:
        screen.print(_table(rows, steps))


def _run(
    make: Callable[[int], Given],
    contestant: Contestant,
    rate: float | None,
    steps: int,
    seed: int,
    judged: int,
    weights: str,
) -> dict[str, Any]:
    """Train once; what the table shows."""
    from functools import partial

    from gmn_opt.cli.bench.contestants import METHODS, Setup
    from gmn_opt.cli.bench.training import train

    given = make(seed)
    problem = given.problem(judged)
    setup = Setup(problem.model, problem.inputs, steps, rate, weights, problem.named)
    outcome = train(problem, partial(METHODS[contestant.method], setup), steps, probes=1)
    test = None if given.test_batches is None else given.mean_loss(given.test_batches)
    broke = outcome.broke is not None
    return {
        "optimizer": contestant.name,
        "title": contestant.title.removesuffix(", tuned"),
        "rate": rate,
        "train_loss": None
        if broke or not math.isfinite(outcome.losses[-1])
        else outcome.losses[-1],
        "test_loss": None if broke or test is None or not math.isfinite(test) else test,
        "diverged": outcome.diverged,
        "seconds": outcome.seconds[-1],
        "optimizer_ms": outcome.optimizer_ms,
        "step_ms": outcome.step_ms,
        "warnings": outcome.warnings,
    }


def _table(rows: list[dict[str, Any]], steps: int) -> Table:
    """A line per run; the lowest losses stand out."""
    made = Table(title=f"after {steps} steps")
    made.add_column("optimizer")
    for name in ("rate", "training loss", "test loss", "s", "optimizer ms", "step ms"):
        made.add_column(name, justify="right")
    best = {
        key: min((r[key] for r in rows if r[key] is not None), default=None)
        for key in ("train_loss", "test_loss")
    }

    def loss(row: dict[str, Any], key: str) -> str:
        value = row[key]
        if value is None:
            return "diverged" if row["diverged"] else ""
        text = f"{value:.4g}" + (" (diverged)" if row["diverged"] else "")
        return f"[bold green]{text}[/]" if value == best[key] else text

    for row in rows:
        made.add_row(
            row["title"],
            "" if row["rate"] is None else f"{row['rate']:g}",
            loss(row, "train_loss"),
            loss(row, "test_loss"),
            f"{row['seconds']:.1f}",
            f"{row['optimizer_ms']:.2f}",
            f"{row['step_ms']:.2f}",
        )
    return made
