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

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from experiments import frame
from experiments.inr.data import folder_of, load_or_make
from experiments.inr.edit_report import bounds, judge, plot_curve, plot_gallery
from experiments.inr.editors import EDITORS, new_editor, some_of
from gmn_opt.cli.settings import with_settings
from gmn_opt.inr import (
    EditorConfig,
    EditTrainer,
    FitConfig,
    InrSet,
    TrainConfig,
    WeightEditor,
    load_inr_set,
    save_editor,
)
from gmn_opt.inr.edits import EDITS
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
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


@dataclass
class Session:
    """One editor's training: the trainer, its curve, and the folder it is kept in."""

    folder: Path
    trainer: EditTrainer
    what: dict[str, Any]
    curve: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        """What --resume goes on from."""
        return self.folder / "checkpoint.pt"

    def resume(self) -> None:
        """Go on from the checkpoint; raises ValueError when it is of another run."""
        saved = load_checkpoint(self.checkpoint)
        if saved.get("run") != self.what:
            raise ValueError(
                f"{self.checkpoint} is of another run ({saved.get('run')}, now {self.what}). "
                "Continue with the same settings, or choose another --out."
            )
        self.trainer.load_state_dict(saved["trainer"])
        self.curve, self.losses = saved["curve"], saved["losses"]

    def save(self) -> None:
        """Write the checkpoint."""
        state = {"trainer": self.trainer.state_dict(), "run": self.what}
        save_checkpoint(self.checkpoint, {**state, "curve": self.curve, "losses": self.losses})

    def look(self, valid: Sequence[InrSet]) -> str:
        """Validate: a point of the curve, and what to say of it."""
        trainer = self.trainer
        point = {
            "step": trainer.step,
            "seconds": round(trainer.seconds, 2),
            "train_mse": sum(self.losses) / len(self.losses),
            "valid_mse": mean([judge(trainer.result(), v, trainer.edit) for v in valid]),
        }
        self.curve.append(point)
        trainer.compare(point["valid_mse"])
        self.losses.clear()
        return f"train {point['train_mse']:.4f} valid {point['valid_mse']:.4f}"

    def train(
        self, valid: Sequence[InrSet], console: Console, minutes: float | None, between: float
    ) -> None:
        """Steps until the run is complete or time is up; ``between`` minutes lie checkpoints."""
        trainer, started = self.trainer, time.monotonic()
        saved, info = started, TextColumn("{task.fields[info]}")
        columns = BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), info
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=1.0, info="")
            bar.update(task, completed=trainer.progress)
            while trainer.progress < 1:
                self.losses.append(trainer.advance())
                if trainer.step % trainer.config.check_every == 0 or trainer.progress >= 1:
                    found = self.look(valid)
                    bar.update(task, info=found)
                    if not console.is_terminal:
                        console.print(f"step {trainer.step}, {trainer.seconds:.0f} s: {found}")
                bar.update(task, completed=trainer.progress)
                now = time.monotonic()
                if now - saved > 60 * between:
                    self.save()
                    saved = now
                if minutes is not None and now - started > 60 * minutes:
                    break
        self.save()

    def record(
        self, kind: str, sets: dict[str, list[InrSet]], judged: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """What is written of the run; saves the editor where it is of the package's kind."""
        trainer, final = self.trainer, self.trainer.result(best=True)
        seen = [t for t in judged if t["seen"]]
        marks = {k: mean([t["bounds"][k] for t in seen]) for k in seen[0]["bounds"]}
        found = mean([t["test_mse"] for t in seen])
        weights = self.folder / "editor.safetensors"
        releasable = EDITORS[kind].make is WeightEditor
        names = "+".join(dict.fromkeys(map(name_of, sets["train"])))
        first, seed = sets["train"][0], self.what["seed"]
        if releasable:
            size = list(first.images.shape[1:3])
            about = {"data": names, "test_mse": found, "seed": seed, "size": size}
            save_editor(weights, final, about)
        return {
            "edit": trainer.edit,
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
            "origin": first.manifest["about"].get("origin"),
            "sha256": sha256(weights.read_bytes()).hexdigest() if releasable else None,
            "parameters": sum(p.numel() for p in final.parameters()),
            "editor": asdict(final.config),
            "training": asdict(trainer.config),
            "steps": trainer.step,
            "training_seconds": round(trainer.seconds, 1),
            "skipped_steps": trainer.skipped,
            "scales": dict(zip(final.roles, final.scale.tolist(), strict=True)),
            "curve": self.curve,
        }


def main(
    edit: Annotated[str, typer.Option(help=", ".join(EDITS))] = "dilate",
    data: Annotated[str, typer.Option(help="mnist, fashion_mnist or photos")] = "mnist",
    preset: frame.Preset = "cpu",
    kind: Annotated[str, typer.Option(help=", ".join(EDITORS))] = "gmn",
    out: Annotated[Path | None, typer.Option(help="Default: runs/inr_editing/...")] = None,
    inrs: Annotated[list[Path] | None, typer.Option(help="Default: runs/inrs/DATA.")] = None,
    unseen: Annotated[list[Path] | None, typer.Option(help="INRs to be judged on only.")] = None,
    seed: frame.Seed = 0,
    resume: frame.Resume = False,
    minutes: frame.Minutes = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the whole run.")] = None,
    train_seconds: Annotated[
        float | None,
        typer.Option(help="Length of the whole run in place of steps: CPU time of the steps."),
    ] = None,
    change: frame.Settings = None,
    device: frame.Device = "auto",
    threads: frame.Threads = 1,
    checkpoint_minutes: Annotated[float, typer.Option(help="Between checkpoints.")] = 3.0,
) -> None:
    """Train and judge a weight editor."""
    console = frame.begin(threads)
    folder = out or Path("runs/inr_editing") / f"{data}-{edit}-{kind}-{seed}"
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        frame.choose("edit", edit, EDITS)
        frame.choose("editor", kind, EDITORS)
        where = frame.choose_device(device)
        editor_config, config = PRESETS[preset][0 if EDITORS[kind].rounds else 1]
        config = replace(config, steps=steps or config.steps, seconds=train_seconds)
        editor_config, config = with_settings((editor_config, config), change or [])
        found = [load_or_make(f, data, preset) for f in inrs or [folder_of(data, preset)]]
        sets = {split: [some[split] for some in found] for split in SPLITS}
        train = sets["train"]
        others = [load_inr_set(f / "test") for f in unseen or []]
        editor_config = replace(editor_config, edit=edit, grid=side_of(train))
        editor = new_editor(kind, train[0].config, editor_config, seed)
        what = {"edit": edit, "kind": kind, "seed": seed, "editor": asdict(editor.config)}
        what["inrs"] = [_identity(some) for some in train]
        session = Session(folder, EditTrainer(train, edit, editor, config, seed, where), what)
        if resume:
            session.resume()
        folder.mkdir(parents=True, exist_ok=True)
    count = sum(p.numel() for p in editor.parameters())
    length = f"{config.steps} steps" if train_seconds is None else f"{train_seconds:g} s"
    console.print(f"{kind} editor, {count} parameters, {edit} on {data}, {length}")
    session.train(
        [some_of(some, _CURVE) for some in sets["valid"]], console, minutes, checkpoint_minutes
    )
    trainer, final = session.trainer, session.trainer.result(best=True)
    fit = FitConfig(steps=60) if preset == "smoke" else FitConfig()
    judged = tests(final, sets["test"], others, edit, fit)
    record = session.record(kind, sets, judged)
    frame.write_record(folder / "result.json", record)
    marks = record["bounds"]
    if session.curve:
        plot_curve(session.curve, marks, folder / "curve.png")
    plot_gallery(final, sets["test"][0], edit, folder / "gallery.png")
    console.print(
        f"test MSE {record['test_mse']:.4f}; identity {marks['identity']:.4f}, "
        f"floor {marks['floor']:.4f}; {trainer.step} steps, {trainer.seconds / 60:.1f} min"
    )


if __name__ == "__main__":
    typer.run(main)
