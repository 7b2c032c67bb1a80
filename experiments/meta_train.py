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

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from experiments import frame
from experiments.plot_meta_training import plot
from gmn_opt.cli.meta_train.running import Keep, Wish, run_meta_training
from gmn_opt.cli.meta_train.session import Suite
from tasks.suites import MetaTrainSuite, validation

app = typer.Typer(add_completion=False)


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
    wish = Wish(
        out, preset, seed, start, tuple(changes or ()), resume, overwrite, minutes, device,
        meta_steps, meta_batch, estimator, checkpoint_minutes, tensorboard, patience, validate_rule,
    )  # fmt: skip
    keep = Keep(partial(frame.write_record, indent=2), plot)
    run_meta_training(lambda: Suite(MetaTrainSuite(), validation()), wish, console, keep)


if __name__ == "__main__":
    app()
