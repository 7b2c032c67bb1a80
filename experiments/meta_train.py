"""Meta-train the learned optimizer: ``python -m experiments.meta_train --preset smoke|cpu|gpu``.

Writes to --out: ``weights.safetensors`` (moving average of the meta-parameters), ``result.json``
(configuration, machine, versions, validation), ``log.jsonl`` (one line per outer step),
``curve.png`` (its learning curves) and ``checkpoint.pt`` (for --resume). A run that is killed goes
on from its last checkpoint, bit by bit as if it had never stopped. To train in slices, of nine
minutes say, start with ``--minutes 9`` and repeat with ``--minutes 9 --resume``.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.common import choose_device, command_line, environment, keep_freed_memory
from experiments.plot_meta_training import plot
from gmn_opt.meta import MetaConfig, MetaStep, MetaTrainer, train_inner
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.optim import LearnedRule, RuleConfig
from gmn_opt.optim.shipped import save_rule
from gmn_opt.weights.atomic import write_atomically
from tasks.suites import MetaTrainSuite, validation

PRESETS = {
    "smoke": MetaConfig(
        meta_steps=12,
        runs=2,
        max_networks=2,
        truncation=(4, 6),
        horizon=(8, 20),
        warmup=2,
        rule=RuleConfig(hidden=8, edge_hidden=2, layers=1),
    ),
    "cpu": MetaConfig(),
    "gpu": MetaConfig(
        meta_steps=20_000, runs=16, edges_per_batch=600_000, max_networks=64, horizon=(40, 3000)
    ),
}
VALIDATION_STEPS = {"smoke": 10, "cpu": 500, "gpu": 1000}
app = typer.Typer(add_completion=False)


def validate(
    rule: LearnedRule, steps: int, count: int = 2, device: torch.device | str = "cpu"
) -> dict[str, dict[str, float]]:
    """Mean training loss over the last tenth of a run, per validation task, in both modes."""
    found: dict[str, dict[str, float]] = {}
    for task in validation():
        found[task.name] = {}
        for mode, horizon in (("horizon", steps), ("open", None)):
            _, losses = train_inner(rule, task, steps, count, 1234, horizon, device)
            found[task.name][mode] = float(losses[-max(1, steps // 10) :].mean())
    return found


def score(results: dict[str, dict[str, float]]) -> float:
    """Mean log loss over tasks and modes: what checkpoints are compared by."""
    values = torch.tensor([v for modes in results.values() for v in modes.values()])
    return float(values.log().mean())


def _columns() -> list[Any]:
    return [
        TextColumn("[bold]meta-training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    ]


def _log_line(record: MetaStep) -> str:
    values = asdict(record)
    finite = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _cut_log(path: Path, step: int) -> None:
    """Drop what the checkpoint does not know: lines of later outer steps, and a torn last line."""

    def known(line: str) -> bool:
        try:
            return bool(json.loads(line)["step"] <= step)
        except (ValueError, TypeError, KeyError):
            return False

    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if known(line)]
    write_atomically(path, lambda temporary: temporary.write_text("".join(f"{x}\n" for x in lines)))


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=2) + "\n"
    write_atomically(folder / "result.json", lambda path: path.write_text(text, encoding="utf-8"))


def _changed(saved: dict[str, Any], config: MetaConfig) -> str:
    """Settings that differ between a checkpoint and a run that goes on from it."""
    before, now = MetaConfig.from_dict(saved).to_dict(), config.to_dict()
    return ", ".join(f"{k} {before[k]} -> {now[k]}" for k in now if before[k] != now[k])


@app.command()
def main(
    preset: Annotated[str, typer.Option(help="smoke, cpu or gpu")] = "cpu",
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option()] = Path("runs/meta_train"),
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    meta_steps: Annotated[int | None, typer.Option(help="Outer steps of the whole run.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    checkpoint_minutes: Annotated[
        float, typer.Option(help="Between checkpoints; 0 for one after every outer step.")
    ] = 3.0,
    validate_rule: Annotated[
        bool | None,
        typer.Option(
            "--validate/--no-validate",
            help="Train the validation tasks at the end; by default only when the run is complete.",
        ),
    ] = None,
) -> None:
    """Meta-train the rule of GMNOptimizer."""
    started = last_saved = time.monotonic()
    console = Console(stderr=False, highlight=False)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, soft_wrap=True)

    if preset not in PRESETS:
        say(f"Unknown preset {preset!r}; choose one of {', '.join(PRESETS)}.", "red")
        raise typer.Exit(2)
    torch.set_num_threads(threads)
    keep_freed_memory()
    config = replace(PRESETS[preset], seed=seed)
    if meta_steps is not None:
        config = replace(config, meta_steps=meta_steps)
    checkpoint = out / "checkpoint.pt"
    try:
        where = choose_device(device)
        state = load_checkpoint(checkpoint) if resume else None
        trainer = MetaTrainer(MetaTrainSuite(), config, where)
        spent = 0.0
        if state is not None:
            if not {"trainer", "seconds"} <= state.keys():
                raise ValueError(f"{checkpoint} is not a checkpoint of this script.")
            trainer.load_state_dict(state["trainer"])
            spent = float(state["seconds"])
    except ValueError as error:
        say(str(error), "red")
        raise typer.Exit(2) from error

    def seconds() -> float:
        return spent + time.monotonic() - started

    def keep() -> None:
        save_checkpoint(checkpoint, {"trainer": trainer.state_dict(), "seconds": seconds()})
        save_rule(out / "weights.safetensors", trainer.averaged_rule())

    say(
        f"{preset} preset on {where}: {config.meta_steps} outer steps, "
        f"{sum(p.numel() for p in trainer.rule.parameters())} meta-parameters"
        + (f", resumed at step {trainer.step}" if resume else "")
    )
    if state is not None and (changed := _changed(state["trainer"]["config"], config)):
        say(f"Settings differ from the checkpoint's: {changed}", "yellow")
    shown = console.is_terminal
    smooth: float | None = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        if resume and (out / "log.jsonl").exists():
            _cut_log(out / "log.jsonl", trainer.step)
        with (
            Progress(*_columns(), console=console, disable=not shown) as progress,
            (out / "log.jsonl").open("a" if resume else "w", encoding="utf-8") as log,
        ):
            bar = progress.add_task("", total=config.meta_steps, completed=trainer.step, info="")
            for record in trainer.train():
                log.write(_log_line(record))
                if math.isfinite(record.meta_loss):
                    before = record.meta_loss if smooth is None else smooth
                    smooth = 0.98 * before + 0.02 * record.meta_loss
                rate = trainer.inner_steps / max(seconds(), 1e-9)
                info = (
                    f"{rate:.0f} inner steps/s  "
                    f"meta-loss {math.nan if smooth is None else smooth:.3f}  "
                    f"diverged {trainer.counts['diverged']} "
                    f"non-finite {trainer.counts['non-finite'] + trainer.counts['skipped']}"
                )
                progress.update(bar, completed=trainer.step, info=info)
                if not shown and trainer.step % 50 == 0:
                    say(f"step {trainer.step}/{config.meta_steps}  {info}")
                now = time.monotonic()
                if now - last_saved >= 60 * checkpoint_minutes:
                    log.flush()
                    keep()
                    last_saved = now
                if minutes is not None and now - started > 60 * minutes:
                    break
        keep()
        complete = trainer.step >= config.meta_steps
        result = {
            "command": command_line(),
            "preset": preset,
            "config": config.to_dict(),
            "complete": complete,
            "outer_steps": trainer.step,
            "inner_steps": trainer.inner_steps,
            "seconds": seconds(),
            "events": trainer.counts,
            "validation": None,
            "environment": environment(),
        }
        # before the validation, which takes minutes, so that a kill during it loses nothing
        _write_result(out, result)
        plot(out / "log.jsonl", out / "curve.png")
        if validate_rule or (validate_rule is None and complete):
            steps = VALIDATION_STEPS[preset]
            tasks = validate(trainer.averaged_rule(), steps, device=where)
            initial = LearnedRule(config.rule).to(where)
            result["validation"] = {
                "steps": steps,
                "tasks": tasks,
                "score": score(tasks),
                "initial_score": score(validate(initial, steps, device=where)),
            }
            _write_result(out, result)
    except OSError as error:
        say(f"Cannot write to {out} ({error}). What was written before stands.", "red")
        say("Make room, then go on with --resume.", "red")
        raise typer.Exit(1) from error
    if result["validation"]:
        console.print_json(json.dumps(result["validation"]))
    if complete:
        say(f"Wrote {out}/weights.safetensors, {out}/result.json and {out}/curve.png")
    else:
        say(f"Stopped at step {trainer.step} of {config.meta_steps}; go on with --resume.")


if __name__ == "__main__":
    app()
