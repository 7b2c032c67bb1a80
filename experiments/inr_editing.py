"""Learned edits: ``python -m experiments.inr_editing --edit dilate --data mnist --preset cpu``.

Trains an editor on INRs (fitted first where they are missing) and judges it, with the weights of
the lowest validation error, on INRs never seen: mean squared error in [-1, 1] of the rendered
edited INR against the reference edit of the image, beside two bounds: the identity (no edit at
all) and the floor (an INR fitted to the edited image itself). Writes ``editor.safetensors``,
``result.json``, ``curve.png``, ``gallery.png`` and ``checkpoint.pt`` to --out. A run that was
killed goes on with --resume; --minutes trains a slice.
--inrs may be given several times: one editor is trained on INRs of several widths and depths then,
and judged on each, and on those of --unseen, which it was not trained on.
With --train-seconds the run is as long as that, whatever the editor, which is how editors compare.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from experiments import make_inrs
from experiments.common import (
    choose_device,
    command_line,
    environment,
    keep_freed_memory,
    refusing,
)
from experiments.inr_edit_report import bounds, judge, plot_curve, plot_gallery
from experiments.inr_edit_training import EditTrainer, TrainConfig
from experiments.inr_editors import EDITORS, new_editor, some_of
from experiments.settings import with_settings
from gmn_opt.inr import EditorConfig, FitConfig, InrSet, WeightEditor, load_inr_set, save_editor
from gmn_opt.inr.edits import EDITS
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.weights.atomic import write_atomically
from tasks.inr_data import SPLITS

_SMOKE = TrainConfig(steps=12, batch=4, check_every=6)
#: By preset, for editors in rounds and for those in one pass.
PRESETS = {
    "smoke": (
        (EditorConfig(hidden=8, edge_hidden=4, layers=1, rounds=2, vision=4), _SMOKE),
        (EditorConfig(hidden=8, edge_hidden=4, layers=3, probes=4), _SMOKE),
    ),
    "cpu": (
        (
            EditorConfig(hidden=32, edge_hidden=8, layers=1, rounds=6),
            TrainConfig(batch=16, lr=3e-3),
        ),
        (EditorConfig(edge_hidden=8, layers=3, probes=144), TrainConfig(lr=3e-3)),
    ),
    "gpu": (
        (
            EditorConfig(hidden=64, edge_hidden=16, layers=2, rounds=8, vision=32),
            TrainConfig(steps=60_000, batch=128, lr=2e-3, check_every=1000),
        ),
        (
            EditorConfig(hidden=128, edge_hidden=16, layers=4, probes=144),
            TrainConfig(steps=60_000, batch=128, check_every=1000),
        ),
    ),
}
#: INRs for the learning curve.
_CURVE = 200


def load_or_make(folder: Path, split: str, data: str, preset: str) -> InrSet:
    """A split of a data set of INRs, which is fitted first where there is none."""
    if not (folder / "dataset.json").exists():
        make_inrs.main(data=data, out=folder, preset=preset, resume=True)
    return load_inr_set(folder / split)


def _identity(data: InrSet) -> list[Any]:
    """What tells training sets apart, as plain values."""
    return [data.manifest["images"]["sha256"], data.manifest["seed"], data.config.to_dict()]


def side_of(data: Sequence[InrSet]) -> int:
    """The side of the images, which must be square and of one size; raises ValueError."""
    sizes = sorted({tuple(some.images.shape[1:3]) for some in data})
    if len(sizes) != 1 or sizes[0][0] != sizes[0][1]:
        raise ValueError(
            f"One editor is trained on square images of one size, received (rows, columns) {sizes}."
        )
    return int(sizes[0][0])


def name_of(data: InrSet) -> str:
    """What a set of INRs was made from."""
    return str(data.manifest["about"].get("data", "images"))


def tests(
    editor: WeightEditor,
    seen: Sequence[InrSet],
    unseen: Sequence[InrSet],
    edit: str,
    fit: FitConfig,
) -> list[dict[str, Any]]:
    """Errors on test sets, with their bounds; ``fit`` is for INRs of edited images."""
    return [
        {
            "data": name_of(data),
            "widths": list(data.config.widths),
            "seen": number < len(seen),
            "count": len(data),
            "test_mse": judge(editor, data, edit),
            "bounds": bounds(data, edit, fit),
        }
        for number, data in enumerate([*seen, *unseen])
    ]


def main(
    edit: Annotated[str, typer.Option(help=", ".join(EDITS))] = "dilate",
    data: Annotated[str, typer.Option(help="mnist, fashion_mnist or photos")] = "mnist",
    preset: Annotated[str, typer.Option(help="smoke, cpu or gpu")] = "cpu",
    kind: Annotated[str, typer.Option(help=", ".join(EDITORS))] = "gmn",
    out: Annotated[Path | None, typer.Option(help="Default: runs/inr_editing/...")] = None,
    inrs: Annotated[list[Path] | None, typer.Option(help="Default: runs/inrs/DATA.")] = None,
    unseen: Annotated[list[Path] | None, typer.Option(help="INRs to be judged on only.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the whole run.")] = None,
    train_seconds: Annotated[
        float | None,
        typer.Option(help="Length of the whole run in place of steps: CPU time of the steps."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: a setting of the editor or of its training."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    checkpoint_minutes: Annotated[float, typer.Option(help="Between checkpoints.")] = 3.0,
) -> None:
    """Train and judge a weight editor."""
    started = last_saved = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(threads)
    keep_freed_memory()
    folder = out or Path("runs/inr_editing") / f"{data}-{edit}-{kind}-{seed}"
    checkpoint = folder / "checkpoint.pt"
    with refusing(console):
        if preset not in PRESETS or edit not in EDITS or kind not in EDITORS:
            raise ValueError(
                f"Choose a preset of {', '.join(PRESETS)}, an edit of {', '.join(EDITS)} and an "
                f"editor of {', '.join(EDITORS)}; received {preset!r}, {edit!r} and {kind!r}."
            )
        where = choose_device(device)
        editor_config, config = PRESETS[preset][0 if EDITORS[kind].rounds else 1]
        config = replace(config, steps=steps or config.steps, seconds=train_seconds)
        editor_config, config = with_settings((editor_config, config), change or [])
        suffix = "" if preset == "cpu" else f"-{preset}"
        folders = inrs or [Path("runs/inrs") / f"{data}{suffix}"]
        sets = {split: [load_or_make(f, split, data, preset) for f in folders] for split in SPLITS}
        train = sets["train"]
        others = [load_inr_set(f / "test") for f in unseen or []]
        editor_config = replace(editor_config, edit=edit, grid=side_of(train))
        editor = new_editor(kind, train[0].config, editor_config, seed)
        trainer = EditTrainer(train, edit, editor, config, seed, where)
        curve: list[dict[str, float]] = []
        losses: list[float] = []
        what = {
            "edit": edit,
            "kind": kind,
            "seed": seed,
            "editor": asdict(editor.config),
            "inrs": [_identity(some) for some in train],
        }
        if resume:
            saved = load_checkpoint(checkpoint)
            if saved.get("run") != what:
                raise ValueError(
                    f"{checkpoint} is of another run ({saved.get('run')}, now {what}). Continue "
                    "with the same settings, or choose another --out."
                )
            trainer.load_state_dict(saved["trainer"])
            curve, losses = saved["curve"], saved["losses"]
        folder.mkdir(parents=True, exist_ok=True)
    valid = [some_of(some, _CURVE) for some in sets["valid"]]
    count = sum(p.numel() for p in editor.parameters())
    length = f"{config.steps} steps" if train_seconds is None else f"{train_seconds:g} s"
    console.print(f"{kind} editor, {count} parameters, {edit} on {data}, {length}")

    columns: list[Any] = [BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
    columns.append(TextColumn("{task.fields[info]}"))

    def save() -> None:
        state = {"trainer": trainer.state_dict(), "curve": curve, "losses": losses, "run": what}
        save_checkpoint(checkpoint, state)

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, info="")
        bar.update(task, completed=trainer.progress)
        while trainer.progress < 1:
            losses.append(trainer.advance())
            if trainer.step % config.check_every == 0 or trainer.progress >= 1:
                point = {
                    "step": trainer.step,
                    "seconds": round(trainer.seconds, 2),
                    "train_mse": sum(losses) / len(losses),
                    "valid_mse": mean([judge(trainer.result(), v, edit) for v in valid]),
                }
                curve.append(point)
                trainer.compare(point["valid_mse"])
                losses.clear()
                info = f"train {point['train_mse']:.4f} valid {point['valid_mse']:.4f}"
                bar.update(task, info=info)
                if not console.is_terminal:
                    console.print(f"step {trainer.step}, {trainer.seconds:.0f} s: {info}")
            bar.update(task, completed=trainer.progress)
            now = time.monotonic()
            if now - last_saved > 60 * checkpoint_minutes:
                save()
                last_saved = now
            if minutes is not None and now - started > 60 * minutes:
                break
    save()

    final = trainer.result(best=True)
    fit = FitConfig(steps=60) if preset == "smoke" else FitConfig()
    judged = tests(final, sets["test"], others, edit, fit)
    seen = [t for t in judged if t["seen"]]
    marks = {k: mean([t["bounds"][k] for t in seen]) for k in seen[0]["bounds"]}
    found = mean([t["test_mse"] for t in seen])
    weights = folder / "editor.safetensors"
    releasable = EDITORS[kind].make is WeightEditor
    names = "+".join(dict.fromkeys(map(name_of, train)))
    if releasable:
        size = list(train[0].images.shape[1:3])
        about = {"data": names, "test_mse": found, "seed": seed, "size": size}
        save_editor(weights, final, about)
    record = {
        "command": command_line(),
        "edit": edit,
        "data": names,
        "kind": kind,
        "seed": seed,
        "complete": trainer.progress >= 1,
        "best_step": trainer.best["step"] if trainer.best else trainer.step,
        "test_mse": found,
        "bounds": marks,
        "tests": judged,
        "improvement_over_identity": 1 - found / marks["identity"],
        "target_range": [-1, 1],
        "inrs": {split: sum(map(len, some)) for split, some in sets.items()},
        "origin": train[0].manifest["about"].get("origin"),
        "sha256": sha256(weights.read_bytes()).hexdigest() if releasable else None,
        "parameters": count,
        "editor": asdict(editor.config),
        "training": asdict(config),
        "steps": trainer.step,
        "training_seconds": round(trainer.seconds, 1),
        "skipped_steps": trainer.skipped,
        "scales": dict(zip(final.roles, final.scale.tolist(), strict=True)),
        "curve": curve,
        "environment": environment(),
    }
    text = json.dumps(record, indent=1) + "\n"
    write_atomically(folder / "result.json", lambda p: p.write_text(text, encoding="utf-8"))
    if curve:
        plot_curve(curve, marks, folder / "curve.png")
    plot_gallery(final, sets["test"][0], edit, folder / "gallery.png")
    console.print(
        f"test MSE {found:.4f}; identity {marks['identity']:.4f}, floor {marks['floor']:.4f}; "
        f"{trainer.step} steps, {trainer.seconds / 60:.1f} min"
    )


if __name__ == "__main__":
    typer.run(main)
