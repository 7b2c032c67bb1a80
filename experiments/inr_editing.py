"""Learned edits: ``python -m experiments.inr_editing --edit dilate --data mnist --preset cpu``.

Trains an editor on INRs (fitted first where they are missing) and judges it on INRs never seen:
mean squared error in [-1, 1] of the rendered edited INR against the reference edit of the image,
beside two bounds: the identity (no edit at all) and the floor (an INR fitted to the edited image
itself). Writes ``editor.safetensors``, ``result.json``, ``curve.png``, ``gallery.png`` and
``checkpoint.pt`` to --out. A run that was killed goes on with --resume; --minutes trains a slice.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.functional import mse_loss

from experiments import make_inrs
from experiments.common import choose_device, command_line, environment, keep_freed_memory
from experiments.inr_editors import (
    EditTrainer,
    TrainConfig,
    new_editor,
    rendered_edits,
    some_of,
)
from gmn_opt.inr import (
    EditorConfig,
    FitConfig,
    InrSet,
    WeightEditor,
    fit_batch,
    load_inr_set,
    render,
    save_editor,
)
from gmn_opt.inr.edits import EDITS, edited
from gmn_opt.inr.gallery import draw_gallery, error_image
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.weights.atomic import write_atomically

PRESETS = {
    "smoke": (
        EditorConfig(hidden=8, edge_hidden=4, layers=3),
        TrainConfig(steps=12, batch=4, warmup=2, check_every=6),
    ),
    "cpu": (EditorConfig(), TrainConfig()),
    "gpu": (
        EditorConfig(hidden=128, edge_hidden=32, layers=4),
        TrainConfig(steps=60_000, batch=128, check_every=1000),
    ),
}
#: INRs for the learning curve, and for the floor.
_CURVE, _FLOOR = 200, 100


def data_sets(folder: Path, data: str, preset: str) -> dict[str, InrSet]:
    """Training, validation and test INRs, fitted first where there are none."""
    if not (folder / "dataset.json").exists():
        make_inrs.main(data=data, out=folder, preset=preset, resume=True)
    return {split: load_inr_set(folder / split) for split in ("train", "valid", "test")}


@torch.no_grad()
def bounds(data: InrSet, edit: str, fit: FitConfig) -> dict[str, float]:
    """Errors of doing nothing and of fitting the edited images directly."""
    target = edited(data.targets(), edit)
    inr, size = data.template(), (target.shape[1], target.shape[2])
    shown = render(inr, size, data.params)
    few = min(_FLOOR, len(data))
    with torch.enable_grad():
        direct = fit_batch(target[:few], data.config, fit, seed=10_000)
    return {
        "identity": float(mse_loss(shown, target)),
        "identity_of_image": float(mse_loss(data.targets(), target)),
        "inr_against_image": float(mse_loss(shown, data.targets())),
        "floor": float(mse_loss(render(inr, size, direct.params), target[:few])),
        "floor_inrs": few,
    }


def judge(editor: WeightEditor, data: InrSet, edit: str) -> float:
    """Mean squared error in [-1, 1] over a set."""
    return float(mse_loss(rendered_edits(editor, data), edited(data.targets(), edit)))


def plot_curve(curve: list[dict[str, float]], marks: dict[str, float], path: Path) -> None:
    """Validation error over minutes of training, with the bounds as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4))
    axis = figure.subplots()
    minutes = [c["seconds"] / 60 for c in curve]
    axis.semilogy(minutes, [c["valid_mse"] for c in curve], label="validation")
    axis.semilogy(minutes, [c["train_mse"] for c in curve], alpha=0.5, label="training")
    for name, colour in (("identity", "C3"), ("floor", "C2")):
        axis.axhline(marks[name], color=colour, linestyle="--", linewidth=1, label=name)
    axis.set_xlabel("minutes of training")
    axis.set_ylabel("mean squared error in [-1, 1]")
    axis.legend(fontsize=7)
    figure.tight_layout()
    write_atomically(path, lambda p: figure.savefig(p, dpi=130, format="png"))


def plot_gallery(editor: WeightEditor, data: InrSet, edit: str, path: Path) -> None:
    """The first test images: original, INR, edited INR at half and full strength, reference."""
    few = some_of(data, 8)
    target = edited(few.targets(), edit)
    shown: dict[str, Tensor] = {"image": few.targets()}
    for name, strength in (("INR", 0.0), ("half edit", 0.5), ("edited INR", 1.0)):
        shown[name] = rendered_edits(editor, few, strength)
    shown |= {"reference": target, "error": error_image(shown["edited INR"], target)}
    draw_gallery(shown, path, f"{edit}: INRs never seen in training")


def main(
    edit: Annotated[str, typer.Option(help=", ".join(EDITS))] = "dilate",
    data: Annotated[str, typer.Option(help="mnist, fashion_mnist or photos")] = "mnist",
    preset: Annotated[str, typer.Option(help="smoke, cpu or gpu")] = "cpu",
    kind: Annotated[str, typer.Option(help="gmn, np_nfn or flat")] = "gmn",
    out: Annotated[Path | None, typer.Option(help="Default: runs/inr_editing/...")] = None,
    inrs: Annotated[Path | None, typer.Option(help="Default: runs/inrs/DATA.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the whole run.")] = None,
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
    try:
        if preset not in PRESETS or edit not in EDITS:
            raise ValueError(
                f"Choose a preset of {', '.join(PRESETS)} and an edit of {', '.join(EDITS)}; "
                f"received {preset!r} and {edit!r}."
            )
        where = choose_device(device)
        editor_config, config = PRESETS[preset]
        editor_config = replace(editor_config, edit=edit)
        if steps is not None:
            config = replace(config, steps=steps)
        suffix = "" if preset == "cpu" else f"-{preset}"
        sets = data_sets(inrs or Path("runs/inrs") / f"{data}{suffix}", data, preset)
        train = sets["train"]
        editor = new_editor(kind, train.config, editor_config, seed)
        trainer = EditTrainer(train, edit, editor, config, seed, where)
        curve: list[dict[str, float]] = []
        if resume:
            saved = load_checkpoint(checkpoint)
            trainer.load_state_dict(saved["trainer"])
            curve = saved["curve"]
    except (ValueError, KeyError) as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error
    valid = some_of(sets["valid"], _CURVE)
    count = sum(p.numel() for p in editor.parameters())
    console.print(f"{kind} editor, {count} parameters, {edit} on {data}, {config.steps} steps")

    losses: list[float] = []
    columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    columns.append(TextColumn("{task.fields[info]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=config.steps, completed=trainer.step, info="")
        while trainer.step < config.steps:
            losses.append(trainer.advance())
            if trainer.step % config.check_every == 0 or trainer.step == config.steps:
                point = {
                    "step": trainer.step,
                    "seconds": round(trainer.seconds, 2),
                    "train_mse": sum(losses) / len(losses),
                    "valid_mse": judge(trainer.result(), valid, edit),
                }
                curve.append(point)
                losses.clear()
                info = f"train {point['train_mse']:.4f} valid {point['valid_mse']:.4f}"
                bar.update(task, info=info)
                if not console.is_terminal:
                    console.print(f"step {trainer.step}, {trainer.seconds:.0f} s: {info}")
            bar.update(task, completed=trainer.step)
            now = time.monotonic()
            if now - last_saved > 60 * checkpoint_minutes:
                save_checkpoint(checkpoint, {"trainer": trainer.state_dict(), "curve": curve})
                last_saved = now
            if minutes is not None and now - started > 60 * minutes:
                break
    save_checkpoint(checkpoint, {"trainer": trainer.state_dict(), "curve": curve})

    final = trainer.result()
    test = sets["test"]
    marks = bounds(test, edit, FitConfig())
    found = judge(final, test, edit)
    record = {
        "command": command_line(),
        "edit": edit,
        "data": data,
        "kind": kind,
        "seed": seed,
        "complete": trainer.step >= config.steps,
        "test_mse": found,
        "bounds": marks,
        "improvement_over_identity": 1 - found / marks["identity"],
        "target_range": [-1, 1],
        "inrs": {name: len(s) for name, s in sets.items()},
        "parameters": count,
        "editor": asdict(editor_config),
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
    if kind == "gmn":
        about = {
            "data": data,
            "test_mse": found,
            "seed": seed,
            "size": list(test.images.shape[1:3]),
        }
        save_editor(folder / "editor.safetensors", final, about)
    if curve:
        plot_curve(curve, marks, folder / "curve.png")
    plot_gallery(final, test, edit, folder / "gallery.png")
    console.print(
        f"test MSE {found:.4f}; identity {marks['identity']:.4f}, floor {marks['floor']:.4f}; "
        f"{trainer.step} steps, {trainer.seconds / 60:.1f} min"
    )


if __name__ == "__main__":
    typer.run(main)
