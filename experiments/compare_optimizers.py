"""Optimizers side by side: ``python -m experiments.compare_optimizers --out runs/compare``.

Trains the networks of a suite, one thread each, with the learned rule (untuned) and with tuned
baselines, from the same initial weights on the same batches. Rates are tuned per task and length on
the first seed; the best one is run with all seeds. Every run is a line of ``cells.jsonl`` as soon
as it ends; ``--resume`` goes on after a kill or ``--minutes``. Writes ``result.json``,
``report.md``, ``curves.png`` and ``profile.png``. What the figures mean: docs/comparison.md.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markdown import Markdown
from torch.utils.flop_counter import FlopCounterMode

from experiments import frame
from experiments.comparison import pictures, records, report, summary
from experiments.comparison.cells import Cell, Plan, Results, ordered
from experiments.comparison.pool import Work, work_here, work_in_pool
from experiments.comparison.running import Settings
from experiments.comparison.store import Store, read_baselines
from experiments.comparison.summary import Table
from experiments.comparison.titles import title_of
from experiments.comparison.view import LiveView
from gmn_opt.cli.bench.contestants import CONTESTANTS, Contestant, choose
from gmn_opt.cli.workers import usable_cores
from gmn_opt.optim import load_rule
from gmn_opt.weights.shipped import path_of
from tasks.base import DataTask
from tasks.suites import held_out, validation

SUITES = {"held_out": held_out, "validation": validation}
#: Tasks that the long runs are of: a dense net, a convolutional one, a transformer.
LONG_TASKS = (
    "fashion_mnist28-mlp-128-128-*,fashion_mnist28-strided-*,stdlib_held_out-reduced-gpt-*,"
    "mnist28-mlp-96-*,mnist14-cnn-*,stdlib-*"
)
_QUICK_STEPS = 20
#: Increased when cells of an older version no longer compare.
_FORMAT = 1


@dataclass(frozen=True)
class Request:
    """What the command line asks for, in its own words."""

    suite: str
    tasks: str
    optimizers: str
    rates: tuple[str, ...]
    lengths: str
    long: str
    long_tasks: str
    seeds: int


def matching(tasks: Sequence[DataTask], patterns: str, option: str) -> list[DataTask]:
    """The tasks whose names have one of the comma-separated words in them, or match a pattern.

    Raises ValueError for a word that no task has.
    """
    chosen: dict[str, DataTask] = {}
    for word in filter(None, (p.strip() for p in patterns.split(","))):
        found = [t for t in tasks if word in t.name or fnmatch.fnmatchcase(t.name, word)]
        if not found:
            raise ValueError(
                f"{option}: no task of this suite matches {word!r}. There are "
                f"{', '.join(t.name for t in tasks)}."
            )
        chosen |= {t.name: t for t in found}
    return list(chosen.values())


def with_rates(contestants: Sequence[Contestant], changes: Sequence[str]) -> list[Contestant]:
    """Other grids, from ``"muon_cosine=0.01,0.02"``; raises ValueError for what is none."""
    made = {c.name: c for c in contestants}
    for text in changes:
        name, equals, values = text.partition("=")
        if not equals or name not in made or not made[name].rates:
            able = ", ".join(c.name for c in contestants if c.rates)
            raise ValueError(
                f"--rates takes OPTIMIZER=RATE,RATE for one of {able}; received {text!r}."
            )
        try:
            rates = tuple(float(v) for v in values.split(","))
        except ValueError:
            rates = ()
        if not rates or not all(0 < r < float("inf") for r in rates):
            raise ValueError(f"--rates takes positive numbers, received {text!r}.")
        made[name] = replace(made[name], rates=tuple(sorted(set(rates))))
    return list(made.values())


def plan_of(request: Request) -> tuple[Plan, dict[str, DataTask]]:
    """What to run, and the tasks by name.

    Raises ValueError for what does not exist, ImportError for an optimizer that is not installed.
    """
    frame.choose("suite", request.suite, SUITES)
    names = request.optimizers or ",".join(CONTESTANTS)
    chosen = choose([n.strip() for n in names.split(",")])
    contestants = with_rates(chosen, request.rates)
    suite = SUITES[request.suite]()
    tasks = matching(suite, request.tasks, "--tasks") if request.tasks else suite
    lengths = frame.numbers(request.lengths, "--lengths")
    long = frame.numbers(request.long, "--long") if request.long else ()
    if request.long_tasks == LONG_TASKS:
        known = [w for w in LONG_TASKS.split(",") if any(fnmatch.fnmatch(t.name, w) for t in suite)]
        also = {t.name for t in matching(suite, ",".join(known), "--long-tasks")}
    else:
        also = {t.name for t in matching(suite, request.long_tasks, "--long-tasks")}
    by_task = {t.name: sorted({*lengths, *(long if t.name in also else ())}) for t in tasks}
    if request.seeds < 1:
        raise ValueError(f"--seeds is at least 1, received {request.seeds}.")
    costs = {t.name: cost(t) for t in tasks}
    workloads = tuple(ordered(costs, by_task))
    plan = Plan(workloads, tuple(contestants), tuple(range(request.seeds)))
    return plan, {t.name: t for t in tasks}


def cost(task: DataTask) -> float:
    """Floating-point operations of a training step, roughly; the same on every machine."""
    batch = task.batch("inner_train", 1, torch.Generator().manual_seed(0))
    one = {n: t[0] for n, t in batch.items()}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        task.template(*task.inputs(one))
    return float(3 * counter.get_total_flops())


def protocol_of(suite: str, settings: Settings) -> dict[str, Any]:
    """What cells must have in common so that they compare; weights by their content."""
    load_rule(settings.weights)  # refuses what does not exist
    content = settings.weights
    if content != "initial":
        path = Path(content) if content.endswith(".safetensors") else path_of(content)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"format": _FORMAT, "suite": suite, **asdict(settings), "weights": content}


def write_results(
    out: Path,
    plan: Plan,
    table: Table,
    tasks: dict[str, DataTask],
    facts: dict[str, Any],
    notes: list[str],
) -> str:
    """All files made from the table; the text of the report."""
    titles = {name: title_of(task) for name, task in tasks.items()}
    found, profiles = summary.comparisons(table), summary.profiles(table)
    record = {
        **facts,
        "complete": len(table),
        "workloads": summary.to_json(table),
        "ratios": {
            one: {other: summary.finite(asdict(r)) for other, r in row.items()}
            for one, row in found.items()
        },
        "profiles": [
            summary.finite({"unit": p.unit, "scores": p.scores, "ratios": p.ratios})
            for p in profiles
        ],
        "notes": notes,
    }  # fmt: skip
    text = report.report(table, titles, found, profiles, facts, plan, notes)
    whole = json.dumps(record, indent=1, allow_nan=False) + "\n"
    frame.write_text(out / "result.json", whole)
    frame.write_text(out / "report.md", text)
    if table:
        length = pictures.picture_length(list(table))
        pictures.plot_curves(table, titles, length, out / "curves.png")
    if profiles:
        pictures.plot_profiles(profiles, out / "profile.png")
    return text


def main(
    out: frame.Out = Path("runs/compare"),
    suite: Annotated[str, typer.Option(help="held_out or validation")] = "held_out",
    tasks: Annotated[
        str, typer.Option(help="Only tasks with one of these words in their names, a,b.")
    ] = "",
    optimizers: Annotated[
        str, typer.Option(help=f"Some of {', '.join(CONTESTANTS)}; all by default.")
    ] = "",
    rates: Annotated[
        list[str] | None, typer.Option(help="OPTIMIZER=RATE,RATE: another grid; may be repeated.")
    ] = None,
    lengths: Annotated[str, typer.Option(help="Steps of the runs, for all tasks.")] = "500,1000",
    long: Annotated[str, typer.Option(help="More lengths, for some tasks.")] = "2000",
    long_tasks: Annotated[str, typer.Option(help="These, as in --tasks.")] = LONG_TASKS,
    seeds: Annotated[int, typer.Option(help="Rates are tuned on the first.")] = 3,
    weights: frame.Weights = "default",
    baselines: Annotated[
        Path | None,
        typer.Option(help="Folder of a comparison: all but the learned rule is taken from there."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes, one per core by default; 0: this one.")
    ] = None,
    minutes: frame.Minutes = None,
    resume: frame.Resume = False,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{_QUICK_STEPS} steps, one seed, few examples.")
    ] = False,
    probes: Annotated[int, typer.Option(help="Measurements of a curve.")] = 20,
    seed: Annotated[int, typer.Option(help="Added to all seeds.")] = 2024,
) -> None:
    """Compare optimizers on a suite of tasks."""
    console = frame.begin()
    settings = Settings(weights=weights, probes=probes, seed=seed)
    if quick:
        lengths, long, seeds = str(_QUICK_STEPS), "", 1
        settings = replace(settings, probes=4, judged=200, probed=100)
    request = Request(
        suite, tasks, optimizers, tuple(rates or ()), lengths, long, long_tasks, seeds
    )
    count = usable_cores() if workers is None else workers
    compare(console, request, settings, out, baselines, resume, count, minutes)


def compare(
    console: Console,
    request: Request,
    settings: Settings,
    out: Path,
    baselines: Path | None,
    resume: bool,
    workers: int,
    minutes: float | None,
) -> None:
    """Run what is asked for and write what came of it; leaves with 1 after a failure."""
    began = time.time()
    with frame.refusing(console):
        if settings.probes < 1 or workers < 0:
            raise ValueError("--probes is at least 1, --workers at least 0.")
        plan, by_name = plan_of(request)
        protocol = protocol_of(request.suite, settings)
        earlier, known = _known(baselines, protocol, plan)
        store = Store(out, protocol, resume)
        todo = records.left(plan, known)
        for cell in plan_cells(todo, earlier):
            if cell not in store.results:
                store.add(dict(earlier[cell]))
    specs = {name: task.spec() for name, task in by_name.items()}
    with LiveView(console) as view:
        deadline = None if minutes is None else began + 60 * minutes
        work = Work(todo, specs, settings, store, view, deadline)
        stopped = _run(work, workers)
    facts = {
        "command": frame.command_line(),
        "suite": request.suite,
        "request": asdict(request),
        "settings": asdict(settings),
        "optimizers": [asdict(c) for c in plan.contestants],
        "workers": max(1, workers),
        "seconds": round(time.time() - began, 1),
        "environment": frame.environment(),
    }
    table = records.joined(plan, summary.table_of(todo, store.results), known)
    notes = report.notes_on(table, work.failed)
    if baselines is not None:
        notes.insert(0, records.origin(baselines))
    text = write_results(out, plan, table, by_name, facts, notes)
    _tell(console, work, text, out, stopped)
    if stopped or work.failed:
        raise typer.Exit(1)


def _known(
    baselines: Path | None, protocol: Mapping[str, Any], plan: Plan
) -> tuple[Results, Table]:
    """Earlier runs of the baselines, or what the record of such runs says of them."""
    if baselines is None:
        return {}, {}
    if records.is_record(baselines):
        return {}, records.read_standings(baselines, protocol, plan)
    return read_baselines(baselines, protocol), {}


def plan_cells(plan: Plan, results: Results) -> list[Cell]:
    """The cells of the plan that ``results`` holds."""
    return [cell for on in plan.workloads for cell in plan.cells(on, results) if cell in results]


def _run(work: Work, workers: int) -> str:
    """Do the work; why it ended early, or nothing."""
    try:
        work_in_pool(work, workers) if workers else work_here(work)
    except KeyboardInterrupt:
        return "Stopped."
    except BrokenProcessPool:
        return "A worker process died (out of memory?). Go on with --resume, with fewer --workers."
    return ""


def _tell(console: Console, work: Work, text: str, out: Path, stopped: str) -> None:
    """The main tables, and where the rest is."""
    done = [part for part in text.split("\n## ") if part.startswith(("Training", "Performance"))]
    for part in done:
        if console.is_terminal:
            console.print(Markdown(f"## {part}"))
        else:
            console.print("\n" + part.strip(), markup=False)
    if stopped:
        console.print(stopped, style="red", markup=False)
    open_ = [on for on in work.plan.workloads if not work.plan.is_complete(on, work.store.results)]
    if open_:
        console.print(
            f"\n{len(open_)} of {len(work.plan.workloads)} workloads are not complete; the same "
            "command with --resume goes on."
        )
    console.print(f"\nReport, pictures and raw runs: {out}", markup=False)


if __name__ == "__main__":
    typer.run(main)
