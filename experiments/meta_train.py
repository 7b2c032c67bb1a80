"""Meta-train the learned optimizer: ``python -m experiments.meta_train --preset smoke|cpu|gpu``.

Writes to --out: ``weights.safetensors`` (moving average of the meta-parameters),
``best.safetensors`` (the same at the outer step of the best validation), ``result.json``
(configuration, machine, versions, validations), ``log.jsonl`` (one line per outer step),
``curve.png`` (learning curves) and ``checkpoint.pt`` (for --resume). A run that is killed goes on
from its last checkpoint, bit by bit as if it had never stopped. To train in slices, of nine minutes
say, start with ``--minutes 9`` and repeat with ``--minutes 9 --resume``.

On several processors: ``torchrun --nproc-per-node N -m experiments.meta_train ...``.

``--from default``, or the path of a file, begins with those weights instead of fresh ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
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
from experiments.settings import with_settings
from gmn_opt.meta import (
    LostRankError,
    MetaConfig,
    MetaTrainer,
    World,
    train_inner,
)
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.meta.estimators import ESTIMATORS, FullBackprop, GradientEstimator
from gmn_opt.meta.logs import JsonLog, Log, TensorBoardLog
from gmn_opt.meta.validation import METRIC
from gmn_opt.meta.world import same_device
from gmn_opt.optim import LearnedRule, RuleConfig
from gmn_opt.optim.shipped import load_rule, save_rule
from gmn_opt.weights.atomic import write_atomically
from gmn_opt.weights.shipped import path_of
from tasks.suites import MetaTrainSuite, validation

PRESETS = {
    "smoke": MetaConfig(
        meta_steps=12,
        runs=2,
        max_networks=2,
        edges_per_batch=30_000,
        horizon=(8, 20),
        first_horizon=None,
        warmup=2,
        validate_every=6,
        validation_steps=6,
        validation_networks=1,
        rule=RuleConfig(hidden=8, edge_hidden=2, layers=1, every=3),
    ),
    "cpu": MetaConfig(),
    "gpu": MetaConfig(
        meta_steps=5_000,
        runs=8,
        meta_batch=8,
        edges_per_batch=600_000,
        max_networks=32,
        horizon=(100, 5000),
        estimator=FullBackprop(second_order=False, chunk=100),
        validation_steps=1000,
        validation_networks=4,
    ),
}
#: Validation tasks during meta-training, from the first on; all of them where nothing is said.
VALIDATION_TASKS = {"smoke": 3}
VALIDATION_STEPS = {"smoke": 10, "cpu": 500, "gpu": 1000}
#: What --estimator takes, and the classes behind.
SHORT_NAMES = {
    "truncated": "TruncatedBackprop",
    "full": "FullBackprop",
    "pes": "PersistentES",
    "es": "TruncatedES",
    "full-es": "FullES",
}
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
    """Mean log loss over tasks and modes, after long runs: what the model card reports."""
    values = torch.tensor([v for modes in results.values() for v in modes.values()])
    return float(values.log().mean())


def choose_estimator(name: str, preset: GradientEstimator) -> GradientEstimator:
    """The estimator of this short name, with the windows of the preset's."""
    kind = ESTIMATORS[SHORT_NAMES[name]]
    if isinstance(preset, kind):
        return preset
    takes_windows = any(f.name == "windows" for f in fields(kind))  # type: ignore[arg-type]
    return kind(windows=preset.window_lengths) if takes_windows else kind()  # type: ignore[call-arg]


@dataclass(frozen=True)
class Origin:
    """Weights that a run starts from."""

    rule: LearnedRule
    facts: dict[str, str]

    @staticmethod
    def of(weights: str) -> Origin:
        """Shipped weights by name, or a file; raises WeightsError when they are no rule's."""
        path = Path(weights) if weights.endswith(".safetensors") else path_of(weights)
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        return Origin(load_rule(path), {"weights": path.stem, "sha256": digest})


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


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=2) + "\n"
    write_atomically(folder / "result.json", lambda path: path.write_text(text, encoding="utf-8"))


def _changed(saved: dict[str, Any], config: MetaConfig) -> str:
    """Settings that differ between a checkpoint and a run that goes on from it."""
    before, now = MetaConfig.from_dict(saved).to_dict(), config.to_dict()
    return ", ".join(f"{k} {before[k]} -> {now[k]}" for k in now if before[k] != now[k])


class _Stop(Exception):
    """The system asks this process to end."""


@contextmanager
def _together(device: str, patience: float) -> Iterator[World]:
    """All processes that torchrun started, or this one alone."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) < 2:
        yield World()
        return
    on_cuda = torch.cuda.is_available() and device != "cpu"
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=timedelta(seconds=patience))
    try:
        yield World()
    finally:
        dist.destroy_process_group()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Inside, SIGTERM raises ``_Stop``: torchrun sends it when a process is lost."""

    def stop(number: int, frame: Any) -> None:
        raise _Stop

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Session:
    """One call of this script: a trainer, its folder, and what is told about it."""

    def __init__(
        self, out: Path, console: Console, world: World, preset: str, minutes: float | None
    ) -> None:
        self.out, self.console, self.world = out, console, world
        self.preset, self.minutes = preset, minutes
        self.started = time.monotonic()
        self.spent = 0.0
        self.saved_step = 0
        #: Name and digest of the weights that the run began with, if not with fresh ones.
        self.origin: dict[str, str] | None = None
        self.trainer: MetaTrainer

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.world.rank == 0

    def say(self, text: str, style: str | None = None) -> None:
        """A line, from the first process only."""
        if self.leads:
            self.console.print(text, style=style, markup=False, soft_wrap=True)

    def seconds(self) -> float:
        """Spent on the run so far, earlier sessions included."""
        return self.spent + time.monotonic() - self.started

    def begin(
        self,
        config: MetaConfig,
        device: torch.device,
        resume: bool,
        overwrite: bool,
        origin: Origin | None = None,
    ) -> dict[str, Any] | None:
        """Make the trainer; the checkpoint's state if the run is resumed.

        The sizes of the rule are those of ``origin``, in the run and when it is resumed. Raises
        ValueError when there is nothing to resume, or something that would be lost.
        """
        checkpoint = self.out / "checkpoint.pt"
        held = [n for n in ("checkpoint.pt", "log.jsonl") if (self.out / n).exists()]
        if held and not resume and not overwrite:
            raise ValueError(
                f"{self.out} holds a run already ({', '.join(held)}). Go on with it by --resume, "
                "start in another folder by --out, or replace it by --overwrite."
            )
        state = load_checkpoint(checkpoint) if resume else None
        tasks = validation()[: VALIDATION_TASKS.get(self.preset)]
        if state is None:
            start = None if origin is None else origin.rule
            self.origin = None if origin is None else origin.facts
            if start is not None:
                config = replace(config, rule=start.config)
            self.trainer = MetaTrainer(MetaTrainSuite(), config, device, tasks, start)
            return None
        if not {"trainer", "seconds"} <= state.keys():
            raise ValueError(f"{checkpoint} is not a checkpoint of this script.")
        self.origin = state.get("origin")
        if self.origin is not None:
            config = replace(config, rule=MetaConfig.from_dict(state["trainer"]["config"]).rule)
        self.trainer = MetaTrainer(MetaTrainSuite(), config, device, tasks)
        self.trainer.load_state_dict(state["trainer"])
        self.spent, self.saved_step = float(state["seconds"]), self.trainer.step
        return state

    def keep(self) -> None:
        """Write checkpoint and weights; a meeting of all processes."""
        trainer = self.trainer
        state = trainer.state_dict()
        if self.leads:
            out = self.out
            kept = {"trainer": state, "seconds": self.seconds(), "origin": self.origin}
            save_checkpoint(out / "checkpoint.pt", kept)
            save_rule(out / "weights.safetensors", _learned(trainer.averaged_rule()))
            if trainer.best is not None:
                save_rule(out / "best.safetensors", _learned(trainer.averaged_rule(best=True)))
        self.saved_step = trainer.step

    def train(self, checkpoint_minutes: float, logs: list[Log]) -> None:
        """Outer steps until the run is complete or the time is up."""
        trainer, console = self.trainer, self.console
        shown = console.is_terminal and self.leads
        last_saved = time.monotonic()
        smooth: float | None = None
        with Progress(*_columns(), console=console, disable=not shown) as progress:
            bar = progress.add_task(
                "", total=trainer.config.meta_steps, completed=trainer.step, info=""
            )
            for record in trainer.train():
                for log in logs:
                    log.write(record)
                if math.isfinite(record.meta_loss):
                    before = record.meta_loss if smooth is None else smooth
                    smooth = 0.98 * before + 0.02 * record.meta_loss
                info = self._info(smooth)
                progress.update(bar, completed=trainer.step, info=info)
                due = trainer.step % 50 == 0 or record.validation is not None
                if not shown and due:
                    self.say(f"step {trainer.step}/{trainer.config.meta_steps}  {info}")
                now = time.monotonic()
                # rank 0's clock decides for all
                save, stop = self.world.first(
                    (
                        now - last_saved >= 60 * checkpoint_minutes,
                        self.minutes is not None and now - self.started > 60 * self.minutes,
                    )
                )
                if save or stop:
                    for log in logs:
                        log.flush()
                    self.keep()
                    last_saved = time.monotonic()
                if stop:
                    break

    def _info(self, smooth: float | None) -> str:
        trainer = self.trainer
        rate = trainer.inner_steps / max(self.seconds(), 1e-9)
        text = f"{rate:.0f} inner steps/s  meta-loss {math.nan if smooth is None else smooth:.3f}  "
        if trainer.validations and trainer.best is not None:
            latest = trainer.validations[-1]["score"]
            best = trainer.best
            text += f"validation {latest:.3f} (best {best['score']:.3f} at {best['step']})  "
        bad = trainer.counts["non-finite"] + trainer.counts["skipped"]
        return text + f"diverged {trainer.counts['diverged']} non-finite {bad}"

    def result(self) -> dict[str, Any]:
        """The record of the run."""
        trainer = self.trainer
        best = None
        if trainer.best is not None:
            best = {key: trainer.best[key] for key in ("step", "score")}
        return {
            "command": command_line(),
            "preset": self.preset,
            "origin": self.origin,
            "config": trainer.config.to_dict(),
            "complete": trainer.step >= trainer.config.meta_steps,
            "outer_steps": trainer.step,
            "inner_steps": trainer.inner_steps,
            "seconds": self.seconds(),
            "processes": self.world.size,
            "events": trainer.counts,
            "metric": METRIC,
            "best": best,
            "validations": trainer.validations,
            "validation": None,
            "environment": environment(),
        }

    def final_validation(self, device: torch.device) -> dict[str, Any]:
        """Long runs of the averaged, the best and the untrained rule on the validation tasks."""
        trainer, steps = self.trainer, VALIDATION_STEPS[self.preset]
        tasks = validate(_learned(trainer.averaged_rule()), steps, device=device)
        untrained = LearnedRule(_learned(trainer.averaged_rule()).config).to(device)
        found = {
            "steps": steps,
            "tasks": tasks,
            "score": score(tasks),
            "initial_score": score(validate(untrained, steps, device=device)),
        }
        if trainer.best is not None:
            best = validate(_learned(trainer.averaged_rule(best=True)), steps, device=device)
            found["best"] = {"tasks": best, "score": score(best)}
        return found


def _learned(rule: Any) -> LearnedRule:
    assert isinstance(rule, LearnedRule)
    return rule


@app.command()
def main(
    preset: Annotated[str, typer.Option(help="smoke, cpu or gpu")] = "cpu",
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option()] = Path("runs/meta_train"),
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Weights to begin with: a shipped name, or a .safetensors file."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field of MetaConfig: NAME=VALUE, as often as needed."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a run that --out holds.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    meta_steps: Annotated[int | None, typer.Option(help="Outer steps of the whole run.")] = None,
    meta_batch: Annotated[
        int | None, typer.Option(help="Inner runs per outer step; with torchrun, of all processes.")
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(help="truncated, full, pes, es or full-es; else the preset's"),
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    checkpoint_minutes: Annotated[
        float, typer.Option(help="Between checkpoints; 0 for one after every outer step.")
    ] = 3.0,
    tensorboard: Annotated[bool, typer.Option(help="Event files in --out as well.")] = False,
    patience: Annotated[
        float, typer.Option(help="Seconds that processes wait for one another.")
    ] = 1800.0,
    validate_rule: Annotated[
        bool | None,
        typer.Option(
            "--validate/--no-validate",
            help="Train the validation tasks at the end; by default only when the run is complete.",
        ),
    ] = None,
) -> None:
    """Meta-train the rule of GMNOptimizer."""
    console = Console(stderr=False, highlight=False)

    def refuse(message: str) -> typer.Exit:
        console.print(message, style="red", markup=False, soft_wrap=True)
        return typer.Exit(2)

    if preset not in PRESETS:
        raise refuse(f"Unknown preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    if estimator is not None and estimator not in SHORT_NAMES:
        raise refuse(f"Unknown estimator {estimator!r}; choose one of {', '.join(SHORT_NAMES)}.")
    torch.set_num_threads(threads)
    keep_freed_memory()
    with _together(device, patience) as world, _stoppable():
        session = Session(out, console, world, preset, minutes)
        try:
            if start is not None and resume:
                raise ValueError(
                    f"--from {start} begins a run, --resume goes on with the one in {out}, "
                    "whatever it began with. Give one of them."
                )
            origin = None if start is None else Origin.of(start)
            config, rule = with_settings(
                [replace(PRESETS[preset], seed=seed), PRESETS[preset].rule], changes or []
            )
            config = replace(config, rule=rule)
            if meta_steps is not None:
                config = replace(config, meta_steps=meta_steps)
            if meta_batch is not None or world.size > 1:
                # every process has a run to work on
                each = config.meta_batch * world.size if meta_batch is None else meta_batch
                config = replace(config, meta_batch=each, runs=max(config.runs, each))
            if estimator is not None:
                config = replace(config, estimator=choose_estimator(estimator, config.estimator))
            where = same_device(choose_device(device), world)
            state = session.begin(config, where, resume, overwrite, origin)
            logs: list[Log] = []
            if world.rank == 0:
                out.mkdir(parents=True, exist_ok=True)
                logs = _logs(out, session.trainer.step if resume else None, tensorboard)
        except ValueError as error:
            raise refuse(str(error)) from error
        except OSError as error:
            raise _cannot_write(session, error) from error
        with ExitStack() as stack:
            for log in logs:
                stack.callback(log.close)
            _run(session, state, logs, where, checkpoint_minutes, validate_rule)


def _logs(out: Path, resumed_at: int | None, tensorboard: bool) -> list[Log]:
    logs: list[Log] = []
    if tensorboard:  # first: it may be refused, and nothing is to be cut then
        logs.append(TensorBoardLog(out / "tensorboard", resumed_at))
    return [*logs, JsonLog(out / "log.jsonl", resumed_at)]


def _cannot_write(session: Session, error: OSError) -> typer.Exit:
    session.say(f"Cannot write to {session.out} ({error}). What was written before stands.", "red")
    session.say("Make room, then go on with --resume.", "red")
    return typer.Exit(1)


def _run(
    session: Session,
    state: dict[str, Any] | None,
    logs: list[Log],
    device: torch.device,
    checkpoint_minutes: float,
    validate_rule: bool | None,
) -> None:
    trainer, out, config = session.trainer, session.out, session.trainer.config
    session.say(
        f"{session.preset} preset on {device}: {config.meta_steps} outer steps, "
        f"{sum(p.numel() for p in trainer.rule.parameters())} meta-parameters, "
        f"{type(config.estimator).__name__}"
        + (f", {session.world.size} processes" if session.world.size > 1 else "")
        + (f", resumed at step {trainer.step}" if state is not None else "")
    )
    if state is not None and (changed := _changed(state["trainer"]["config"], config)):
        session.say(f"Settings differ from the checkpoint's: {changed}", "yellow")
    stands = f"The checkpoint of outer step {{}} stands in {out}; go on with --resume"
    try:
        if state is None:
            if session.origin is not None and config.validate_every:
                # the best checkpoint is then never worse than what the run began with
                session.say(f"{session.origin['weights']} has validation {trainer.validate():.3f}")
            session.keep()  # so that there is something to go on from, whatever happens
        session.train(checkpoint_minutes, logs)
        if session.saved_step != trainer.step:
            session.keep()
        result = session.result()
        complete = result["complete"]
        if session.leads:
            # before the validation, which takes minutes, so that a kill during it loses nothing
            _write_result(out, result)
            for log in logs:
                log.flush()
            plot(out / "log.jsonl", out / "curve.png")
            if validate_rule or (validate_rule is None and complete):
                result["validation"] = session.final_validation(device)
                _write_result(out, result)
    except OSError as error:
        raise _cannot_write(session, error) from error
    except LostRankError as error:
        # any process may be the one that is left to tell
        session.console.print(
            f"{error}\n{stands.format(session.saved_step)}, on any number of processes.",
            style="red", markup=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(3) from error
    except (KeyboardInterrupt, _Stop) as error:
        session.console.print(
            f"Rank {session.world.rank} was told to stop. {stands.format(session.saved_step)}.",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(4) from error
    if result["validation"] and session.leads:
        session.console.print_json(json.dumps(result["validation"]))
    if complete:
        session.say(f"Wrote {out}/weights.safetensors, {out}/result.json and {out}/curve.png")
    else:
        session.say(f"Stopped at step {trainer.step} of {config.meta_steps}; go on with --resume.")


if __name__ == "__main__":
    app()
