"""What is shown while a meta-training goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gmn_opt.meta.reports import MetaStep

if TYPE_CHECKING:
    from gmn_opt.meta.trainer import MetaTrainer

_SMOOTHNESS = 0.98


def columns() -> list[ProgressColumn]:
    """A bar over outer steps, the time, and what :class:`Summary` says."""
    return [
        TextColumn("[bold]meta-training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    ]


class Summary:
    """One line on a run: speed, smoothed meta-loss, validation, and what went wrong."""

    def __init__(self, trainer: MetaTrainer) -> None:
        self._trainer = trainer
        self._smooth = math.nan

    def add(self, record: MetaStep) -> None:
        """Take another outer step into account."""
        if math.isfinite(record.meta_loss):
            before = record.meta_loss if math.isnan(self._smooth) else self._smooth
            self._smooth = _SMOOTHNESS * before + (1 - _SMOOTHNESS) * record.meta_loss

    def text(self, seconds: float) -> str:
        """The line; ``seconds`` were spent on all inner steps so far."""
        trainer = self._trainer
        rate = trainer.inner_steps / max(seconds, 1e-9)
        text = f"{rate:.0f} inner steps/s  meta-loss {self._smooth:.3f}  "
        if trainer.validations and trainer.best is not None:
            latest, best = trainer.validations[-1]["score"], trainer.best
            text += f"validation {latest:.3f} (best {best['score']:.3f} at {best['step']})  "
        bad = trainer.counts["non-finite"] + trainer.counts["skipped"]
        return text + f"diverged {trainer.counts['diverged']} non-finite {bad}"


def followed(
    records: Iterator[MetaStep], trainer: MetaTrainer, console: Console | None = None
) -> Iterator[MetaStep]:
    """The same records, with a bar on stderr (or ``console``) that follows them."""
    console = Console(stderr=True) if console is None else console
    summary, done, started = Summary(trainer), trainer.inner_steps, time.monotonic()
    with Progress(*columns(), console=console) as bars:
        total = trainer.config.meta_steps
        bar = bars.add_task("", total=total, completed=trainer.step, info="")
        for record in records:
            summary.add(record)
            spent = time.monotonic() - started
            # steps of an earlier call took time that nobody measured
            share = trainer.inner_steps / max(trainer.inner_steps - done, 1)
            bars.update(bar, completed=record.step, info=summary.text(spent * share))
            yield record
