"""A meta-training run as commands begin it: presets, settings, refusals, records."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from gmn_opt.cli.machine import choose, choose_device
from gmn_opt.cli.meta_train.session import Origin, Session, Stop, Suite, stoppable, together
from gmn_opt.cli.settings import with_settings
from gmn_opt.meta import LostRankError, MetaConfig, World
from gmn_opt.meta.estimators import ESTIMATORS, FullBackprop, GradientEstimator
from gmn_opt.meta.lock import FolderGoneError
from gmn_opt.meta.logs import JsonLog, Log, TensorBoardLog
from gmn_opt.meta.world import same_device
from gmn_opt.optim import RuleConfig

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
#: What --estimator takes, and the classes behind.
SHORT_NAMES = {
    "truncated": "TruncatedBackprop",
    "full": "FullBackprop",
    "pes": "PersistentES",
    "es": "TruncatedES",
    "full-es": "FullES",
}


@dataclass(frozen=True)
class Wish:
    """What a command line asks for.

    Attributes:
        preset, seed, changes, meta_steps, meta_batch, estimator: Of the configuration.
        start: Weights to begin with: a shipped name, or a file.
        out: Folder of the run, which ``resume`` goes on with and ``overwrite`` replaces.
        minutes: After which the run stops, to be resumed.
        checkpoint_minutes: Between checkpoints.
        tensorboard: Whether event files are written.
        patience: Seconds that processes wait for one another.
        validate: Whether long runs are made at the end; None when the run is complete.
    """

    out: Path
    preset: str = "cpu"
    seed: int = 0
    start: str | None = None
    changes: tuple[str, ...] = ()
    resume: bool = False
    overwrite: bool = False
    minutes: float | None = None
    device: str = "auto"
    meta_steps: int | None = None
    meta_batch: int | None = None
    estimator: str | None = None
    checkpoint_minutes: float = 3.0
    tensorboard: bool = False
    patience: float = 1800.0
    validate: bool | None = None


@dataclass(frozen=True)
class Keep:
    """How a record is written, and how a learning curve is drawn from a log, if it is."""

    record: Callable[[Path, dict[str, Any]], object]
    curve: Callable[[Path, Path], object] | None = None


def choose_estimator(name: str, preset: GradientEstimator) -> GradientEstimator:
    """The estimator of this short name, with the windows of the preset's."""
    kind = ESTIMATORS[SHORT_NAMES[name]]
    if isinstance(preset, kind):
        return preset
    takes_windows = any(f.name == "windows" for f in fields(kind))
    windows = preset.window_lengths if takes_windows else None
    made: GradientEstimator = kind() if windows is None else kind(windows=windows)
    return made


def _changed(saved: dict[str, Any], config: MetaConfig) -> str:
    """Settings that differ between a checkpoint and a run that goes on from it."""
    before, now = MetaConfig.from_dict(saved).to_dict(), config.to_dict()
    return ", ".join(f"{k} {before[k]} -> {now[k]}" for k in now if before[k] != now[k])


def configure(wish: Wish, world: World) -> MetaConfig:
    """The preset, changed; raises ValueError for what cannot be."""
    choose("preset", wish.preset, PRESETS)
    preset = PRESETS[wish.preset]
    config, rule = with_settings([replace(preset, seed=wish.seed), preset.rule], wish.changes)
    config = replace(config, rule=rule)
    if wish.meta_steps is not None:
        config = replace(config, meta_steps=wish.meta_steps)
    if wish.meta_batch is not None or world.size > 1:
        # every process has a run to work on
        each = config.meta_batch * world.size if wish.meta_batch is None else wish.meta_batch
        config = replace(config, meta_batch=each, runs=max(config.runs, each))
    if wish.estimator is not None:
        choose("estimator", wish.estimator, SHORT_NAMES)
        config = replace(config, estimator=choose_estimator(wish.estimator, config.estimator))
    made: MetaConfig = config
    return made


def run_meta_training(suite: Callable[[], Suite], wish: Wish, console: Console, keep: Keep) -> None:
    """Meta-train, from the beginning or a checkpoint; a refusal is a line and exit code 2.

    Raises typer.Exit: 1 when the folder cannot be written, 3 when a process was lost, 4 after a
    signal.
    """
    out = wish.out
    with (
        together(wish.device, wish.patience) as world,
        stoppable(world) as stops,
        ExitStack() as stack,
    ):
        session = Session(out, console, world, suite(), wish.preset, wish.minutes)
        session.stops = stops
        stack.callback(session.release)
        try:
            if wish.start is not None and wish.resume:
                raise ValueError(
                    f"--from {wish.start} begins a run, --resume goes on with the one in {out}, "
                    "whatever it began with. Give one of them."
                )
            origin = None if wish.start is None else Origin.of(wish.start)
            config = configure(wish, world)
            where = same_device(choose_device(wish.device), world)
            session.claim(wish.resume)
            state = session.begin(config, where, wish.resume, wish.overwrite, origin)
            logs: list[Log] = []
            if world.rank == 0:
                out.mkdir(parents=True, exist_ok=True)
                logs = _logs(out, session.trainer.step if wish.resume else None, wish.tensorboard)
        except ValueError as error:
            console.print(str(error), style="red", markup=False)
            raise typer.Exit(2) from error
        except OSError as error:
            raise _cannot_write(session, error) from error
        for log in logs:
            stack.callback(log.close)
        _run(session, state, logs, where, wish, keep)


def _logs(out: Path, resumed_at: int | None, tensorboard: bool) -> list[Log]:
    logs: list[Log] = []
    if tensorboard:  # first: it may be refused, and nothing is to be cut then
        logs.append(TensorBoardLog(out / "tensorboard", resumed_at))
    return [*logs, JsonLog(out / "log.jsonl", resumed_at)]


def _cannot_write(session: Session, error: OSError) -> typer.Exit:
    if isinstance(error, FolderGoneError):
        session.say(str(error), "red")
        return typer.Exit(1)
    session.say(f"Cannot write to {session.out} ({error}). What was written before stands.", "red")
    session.say("Make room, then go on with --resume.", "red")
    return typer.Exit(1)


def _run(
    session: Session,
    state: dict[str, Any] | None,
    logs: list[Log],
    device: torch.device,
    wish: Wish,
    keep: Keep,
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
        session.train(wish.checkpoint_minutes, logs)
        if session.saved_step != trainer.step:
            session.keep()
        facts = session.facts()
        complete, record = facts["complete"], out / "result.json"
        if session.leads:
            # before the validation, which takes minutes, so that a kill during it loses nothing
            keep.record(record, facts)
            for log in logs:
                log.flush()
            if keep.curve is not None:
                keep.curve(out / "log.jsonl", out / "curve.png")
            if wish.validate or (wish.validate is None and complete):
                facts["validation"] = session.final_validation(device)
                keep.record(record, facts)
    except OSError as error:
        raise _cannot_write(session, error) from error
    except LostRankError as error:
        # any process may be the one that is left to tell
        session.console.print(
            f"{error}\n{stands.format(session.saved_step)}, on any number of processes.",
            style="red", markup=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(3) from error
    except (KeyboardInterrupt, Stop) as error:
        session.console.print(
            f"Rank {session.world.rank} was told to stop. {stands.format(session.saved_step)}.",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(4) from error
    if facts["validation"] and session.leads:
        session.console.print_json(json.dumps(facts["validation"]))
    if complete:
        session.say(f"Wrote {out}/weights.safetensors and {out}/result.json")
    else:
        session.say(f"Stopped at step {trainer.step} of {config.meta_steps}; go on with --resume.")
