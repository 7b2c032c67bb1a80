"""One call of `gmn-opt meta-train`: its processes, its trainer, its folder."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress

from gmn_opt.meta import MetaConfig, MetaTrainer, Task, TaskSource, World, train_inner
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.meta.lock import FolderLock
from gmn_opt.meta.logs import Log
from gmn_opt.meta.progress import Summary, columns
from gmn_opt.meta.validation import METRIC
from gmn_opt.optim import LearnedRule
from gmn_opt.optim.shipped import load_rule, save_rule
from gmn_opt.weights.shipped import path_of

#: Validation tasks during meta-training, from the first on; all of them where nothing is said.
VALIDATION_TASKS = {"smoke": 3}
VALIDATION_STEPS = {"smoke": 10, "cpu": 500, "gpu": 1000}


@dataclass(frozen=True)
class Suite:
    """What is meta-trained on, and the tasks that compare versions of the rule."""

    source: TaskSource
    validation: Sequence[Task]


def validate(
    rule: LearnedRule,
    tasks: Sequence[Task],
    steps: int,
    count: int = 2,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, float]]:
    """Mean training loss over the last tenth of a run, per validation task, in both modes."""
    found: dict[str, dict[str, float]] = {}
    for task in tasks:
        found[task.name] = {}
        for mode, horizon in (("horizon", steps), ("open", None)):
            _, losses = train_inner(rule, task, steps, count, 1234, horizon, device)
            found[task.name][mode] = float(losses[-max(1, steps // 10) :].mean())
    return found


def score(results: dict[str, dict[str, float]]) -> float:
    """Mean log loss over tasks and modes, after long runs: what the model card reports."""
    values = torch.tensor([v for modes in results.values() for v in modes.values()])
    return float(values.log().mean())


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


class Stop(KeyboardInterrupt):
    """The system asks this process to end."""


@contextmanager
def together(device: str, patience: float) -> Iterator[World]:
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


class Stops:
    """What was asked of this process: ``asked`` once it is to end after the step at hand."""

    def __init__(self) -> None:
        self.asked = self.patient = False


@contextmanager
def stoppable(world: World) -> Iterator[Stops]:
    """Inside, SIGTERM and Ctrl-C raise ``Stop``, or are noted while ``patient`` is set.

    The second one always raises. So does the first where there are several processes: torchrun
    sends SIGTERM when a process is lost, and the others would wait for it in vain.
    """
    stops = Stops()

    def stop(number: int, frame: Any) -> None:
        if stops.asked or not stops.patient or world.size > 1:
            raise Stop
        stops.asked = True

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Session:
    """One call of the command: a trainer, its folder, and what is told about it."""

    def __init__(
        self,
        out: Path,
        console: Console,
        world: World,
        suite: Suite,
        preset: str,
        minutes: float | None,
    ) -> None:
        self.suite = suite
        self.out, self.console, self.world = out, console, world
        self.preset, self.minutes = preset, minutes
        self.started = time.monotonic()
        self.spent = 0.0
        self.saved_step = 0
        #: Name and digest of the weights that the run began with, if not with fresh ones.
        self.origin: dict[str, str] | None = None
        self.trainer: MetaTrainer
        self.stops = Stops()
        self.lock: FolderLock | None = None

    def claim(self, resume: bool) -> None:
        """Lock the folder; raises ValueError when another run has it."""
        if self.leads and not (resume and not self.out.is_dir()):
            self.lock = FolderLock(self.out)

    def release(self) -> None:
        """Let others write to the folder."""
        if self.lock is not None:
            self.lock.release()

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
        suite, first = self.suite, VALIDATION_TASKS.get(self.preset)
        tasks = suite.validation[:first]
        if state is None:
            start = None if origin is None else origin.rule
            self.origin = None if origin is None else origin.facts
            if start is not None:
                config = replace(config, rule=start.config)
            self.trainer = MetaTrainer(suite.source, config, device, tasks, start)
            return None
        if not {"trainer", "seconds"} <= state.keys():
            raise ValueError(f"{checkpoint} is not a checkpoint of this command.")
        self.origin = state.get("origin")
        if self.origin is not None:
            config = replace(config, rule=MetaConfig.from_dict(state["trainer"]["config"]).rule)
        self.trainer = MetaTrainer(suite.source, config, device, tasks)
        self.trainer.load_state_dict(state["trainer"])
        self.spent, self.saved_step = float(state["seconds"]), self.trainer.step
        return state

    def keep(self) -> None:
        """Write checkpoint and weights; a meeting of all processes."""
        trainer = self.trainer
        state = trainer.state_dict()
        if self.leads:
            out = self.out
            if self.lock is not None:
                self.lock.check()
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
        summary = Summary(trainer)
        self.stops.patient = True  # from here on, a step ends and is kept before a stop
        with Progress(*columns(), console=console, disable=not shown) as progress:
            bar = progress.add_task(
                "", total=trainer.config.meta_steps, completed=trainer.step, info=""
            )
            for record in trainer.train():
                for log in logs:
                    log.write(record)
                summary.add(record)
                info = summary.text(self.seconds())
                progress.update(bar, completed=trainer.step, info=info)
                due = trainer.step % 50 == 0 or record.validation is not None
                if not shown and due:
                    self.say(f"step {trainer.step}/{trainer.config.meta_steps}  {info}")
                now = time.monotonic()
                # rank 0's clock decides for all
                save, stop = self.world.first(
                    (
                        now - last_saved >= 60 * checkpoint_minutes or self.stops.asked,
                        self.minutes is not None and now - self.started > 60 * self.minutes,
                    )
                )
                if save or stop:
                    for log in logs:
                        log.flush()
                    self.keep()
                    last_saved = time.monotonic()
                if self.stops.asked:
                    raise Stop
                if stop:
                    break
        self.stops.patient = False

    def facts(self) -> dict[str, Any]:
        """What the record says of the run."""
        trainer = self.trainer
        best = None
        if trainer.best is not None:
            best = {key: trainer.best[key] for key in ("step", "score")}
        return {
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
        }

    def final_validation(self, device: torch.device) -> dict[str, Any]:
        """Long runs of the averaged, the best and the untrained rule on the validation tasks."""
        trainer, steps = self.trainer, VALIDATION_STEPS[self.preset]
        judges = self.suite.validation
        tasks = validate(_learned(trainer.averaged_rule()), judges, steps, device=device)
        untrained = LearnedRule(_learned(trainer.averaged_rule()).config).to(device)
        found = {
            "steps": steps,
            "tasks": tasks,
            "score": score(tasks),
            "initial_score": score(validate(untrained, judges, steps, device=device)),
        }
        if trainer.best is not None:
            rule = _learned(trainer.averaged_rule(best=True))
            best = validate(rule, judges, steps, device=device)
            found["best"] = {"tasks": best, "score": score(best)}
        return found


def _learned(rule: Any) -> LearnedRule:
    assert isinstance(rule, LearnedRule)
    return rule
