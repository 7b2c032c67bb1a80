"""`gmn-opt demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gmn_opt.cli.errors import fail
from gmn_opt.cli.frame import console
from gmn_opt.extras import needs

if TYPE_CHECKING:
    from gmn_opt.cli.demo.plan import Plan

_STEPS, _QUICK_STEPS = 500, 100
_SEEDS = 1
_PROBES, _QUICK_PROBES = 10, 5


def demo(
    quick: Annotated[bool, typer.Option("--quick", help=f"{_QUICK_STEPS} steps per run.")] = False,
    seeds: Annotated[
        int, typer.Option(min=1, max=100, help="Runs of each optimizer; several give a spread.")
    ] = _SEEDS,
    steps: Annotated[
        int | None, typer.Option(min=1, max=100_000, help=f"Steps per run; {_STEPS} by default.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this one: mlp or cnn. May be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the picture and the record.")] = Path(
        "gmn-opt-demo"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record instead of the tables.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Training processes; one per core by default."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads per process.")] = 1,
) -> None:
    """Train two small networks on real images with GMNOptimizer and with AdamW, side by side.

    Takes about a minute on two cores, three times as long with --seeds 3, and no internet: real
    images come with the package (10,000 for training, 2,000 for testing).
    """
    from gmn_opt.cli.demo.jobs import default_workers
    from gmn_opt.cli.demo.models import MODELS
    from gmn_opt.cli.demo.plan import Plan
    from gmn_opt.cli.demo.training import Settings

    names = tuple(dict.fromkeys(model or MODELS))
    for name in names:
        if name not in MODELS:
            fail(f"no model {name!r}; there are {', '.join(MODELS)}")
    _prepare(out)
    settings = Settings(
        steps or (_QUICK_STEPS if quick else _STEPS), probes=_QUICK_PROBES if quick else _PROBES
    )
    plan = Plan(names, seeds, settings, default_workers() if workers is None else workers, threads)
    _play(plan, out, as_json, quick)


def _play(plan: Plan, out: Path, as_json: bool, quick: bool) -> None:
    """Do all runs, print the tables, and write picture and record."""
    from gmn_opt.cli.demo.jobs import JobError
    from gmn_opt.cli.demo.live import View
    from gmn_opt.cli.demo.plan import run_contest
    from gmn_opt.cli.demo.plot import plot_curves
    from gmn_opt.cli.demo.record import dump, make_record, write_record
    from gmn_opt.cli.demo.report import print_report
    from gmn_opt.cli.environment import collect

    screen = console(stderr=as_json)
    screen.print(_heading(plan))
    start = time.monotonic()
    try:
        with View(screen, plan.settings.steps) as view:
            summaries = run_contest(plan, view)
    except JobError as error:
        fail(str(error), code=1)
    except KeyboardInterrupt:
        fail("stopped; nothing was written", code=130)
    seconds = time.monotonic() - start
    record = make_record(
        summaries,
        plan.settings,
        command=_command_line(),
        environment=collect(),
        workers=plan.workers,
        threads=plan.threads,
        quick=quick,
        seconds=seconds,
    )
    picture, data = out / "curves.png", out / "result.json"
    try:
        plot_curves(summaries, picture)
        write_record(record, data)
    except OSError as error:
        fail(f"cannot write to {out}: {error.strerror or error}")
    if as_json:
        sys.stdout.write(dump(record) + "\n")
    else:
        print_report(screen, summaries, quick=quick)
    minutes, rest = divmod(round(seconds), 60)
    screen.print(Text(f"\n{minutes}:{rest:02d} in all. Curves: {picture}  Record: {data}"))


def _heading(plan: Plan) -> Text:
    where = f"{plan.workers} processes" if plan.workers > 1 else "one process"
    each = "1 thread" if plan.threads == 1 else f"{plan.threads} threads"
    some = "1 seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
    text = Text("gmn-opt demo", style="bold")
    detail = f"  Fashion-MNIST, {plan.settings.steps} steps, {some}; {where} of {each}"
    return text.append(detail, style="not bold")


def _prepare(out: Path) -> None:
    """Make the folder; what would fail after minutes, fails now."""
    with needs("demo"):
        import matplotlib  # noqa: F401
    probe = out / ".gmn-opt-write-test"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        fail(f"cannot write to {out}: {error.strerror or error}")


def _command_line() -> list[str]:
    """As typed, but with the program's name alone."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
