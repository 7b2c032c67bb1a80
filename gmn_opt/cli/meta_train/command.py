"""`gmn-opt meta-train`: meta-train the rule of GMNOptimizer on tasks of one's own."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def meta_train(
    tasks: Annotated[
        str, typer.Argument(metavar="MODULE:FACTORY", help="Where the tasks come from.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    preset: Annotated[str, typer.Option(help="smoke, cpu or gpu")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="WEIGHTS", help="Begin with these: a name, or a file."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of MetaConfig or RuleConfig, such as lr=0.001. May be repeated.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run that --out holds.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this many; --resume goes on.")
    ] = None,
    meta_steps: Annotated[int | None, typer.Option(help="Outer steps of the whole run.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Meta-train the rule of GMNOptimizer on tasks of your own.

    The factory is a function without arguments that returns a gmn_opt.meta.Task, a list of them,
    or a source of tasks; gmn_opt/cli/meta_train/example.py is a pattern. Writes
    weights.safetensors, which GMNOptimizer(weights=...) takes, best.safetensors,
    result.json, log.jsonl and a checkpoint. A run that was stopped goes on bit by bit.
    """
    import torch

    from gmn_opt.cli.machine import keep_freed_memory
    from gmn_opt.cli.meta_train.given import load_suite
    from gmn_opt.cli.meta_train.running import Keep, Wish, run_meta_training

    torch.set_num_threads(threads)
    keep_freed_memory()
    wish = Wish(
        out=out,
        preset=preset,
        seed=seed,
        start=start,
        changes=tuple(changes or ()),
        resume=resume,
        overwrite=overwrite,
        minutes=minutes,
        device=device,
        meta_steps=meta_steps,
    )
    suite = load_suite(tasks)
    console = Console(highlight=False, soft_wrap=True)
    run_meta_training(lambda: suite, wish, console, Keep(write_record))


def write_record(path: Path, facts: dict[str, Any]) -> None:
    """The command, the facts, and the machine, as JSON."""
    from gmn_opt.cli.environment import collect
    from gmn_opt.weights.atomic import write_atomically

    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    record = {"command": command, **facts, "environment": collect()}
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
