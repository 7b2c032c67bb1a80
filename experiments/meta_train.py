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

import json
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments import frame
from experiments.meta_session import Origin, Session, Stop, stoppable, together
from experiments.plot_meta_training import plot
from experiments.settings import with_settings
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
app = typer.Typer(add_completion=False)


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


def configure(
    preset: str,
    seed: int,
    changes: list[str],
    estimator: str | None,
    meta_steps: int | None,
    meta_batch: int | None,
    world: World,
) -> MetaConfig:
    """The preset, changed; raises ValueError for what cannot be."""
    frame.choose("preset", preset, PRESETS)
    config, rule = with_settings(
        [replace(PRESETS[preset], seed=seed), PRESETS[preset].rule], changes
    )
    config = replace(config, rule=rule)
    if meta_steps is not None:
        config = replace(config, meta_steps=meta_steps)
    if meta_batch is not None or world.size > 1:
        # every process has a run to work on
        each = config.meta_batch * world.size if meta_batch is None else meta_batch
        config = replace(config, meta_batch=each, runs=max(config.runs, each))
    if estimator is not None:
        frame.choose("estimator", estimator, SHORT_NAMES)
        config = replace(config, estimator=choose_estimator(estimator, config.estimator))
    made: MetaConfig = config
    return made


@app.command()
def main(
    preset: frame.Preset = "cpu",
    seed: frame.Seed = 0,
    out: frame.Out = Path("runs/meta_train"),
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Weights to begin with: a shipped name, or a .safetensors file."
        ),
    ] = None,
    changes: frame.Settings = None,
    resume: frame.Resume = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a run that --out holds.")] = False,
    minutes: frame.Minutes = None,
    device: frame.Device = "auto",
    meta_steps: Annotated[int | None, typer.Option(help="Outer steps of the whole run.")] = None,
    meta_batch: Annotated[
        int | None, typer.Option(help="Inner runs per outer step; with torchrun, of all processes.")
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(help="truncated, full, pes, es or full-es; else the preset's"),
    ] = None,
    threads: frame.Threads = 1,
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
    console = frame.begin(threads)
    with together(device, patience) as world, stoppable(world) as stops, ExitStack() as stack:
        session = Session(out, console, world, preset, minutes)
        session.stops = stops
        stack.callback(session.release)
        try:
            if start is not None and resume:
                raise ValueError(
                    f"--from {start} begins a run, --resume goes on with the one in {out}, "
                    "whatever it began with. Give one of them."
                )
            origin = None if start is None else Origin.of(start)
            config = configure(
                preset, seed, changes or [], estimator, meta_steps, meta_batch, world
            )
            where = same_device(frame.choose_device(device), world)
            session.claim(resume)
            state = session.begin(config, where, resume, overwrite, origin)
            logs: list[Log] = []
            if world.rank == 0:
                out.mkdir(parents=True, exist_ok=True)
                logs = _logs(out, session.trainer.step if resume else None, tensorboard)
        except ValueError as error:
            console.print(str(error), style="red", markup=False)
            raise typer.Exit(2) from error
        except OSError as error:
            raise _cannot_write(session, error) from error
        for log in logs:
            stack.callback(log.close)
        _run(session, state, logs, where, checkpoint_minutes, validate_rule)


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
        facts = session.facts()
        complete, record = facts["complete"], out / "result.json"
        if session.leads:
            # before the validation, which takes minutes, so that a kill during it loses nothing
            frame.write_record(record, facts, indent=2)
            for log in logs:
                log.flush()
            plot(out / "log.jsonl", out / "curve.png")
            if validate_rule or (validate_rule is None and complete):
                facts["validation"] = session.final_validation(device)
                frame.write_record(record, facts, indent=2)
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
        session.say(f"Wrote {out}/weights.safetensors, {out}/result.json and {out}/curve.png")
    else:
        session.say(f"Stopped at step {trainer.step} of {config.meta_steps}; go on with --resume.")


if __name__ == "__main__":
    app()
