"""Editors for photographs: ``python -m experiments.photo_editing --edit contrast``.

Trains an editor of tiled INRs (:mod:`gmn_opt.inr.photo_training`) on the photographs of
``tasks.data.photo_collection`` and judges it on six that no training saw, at 256 pixels: fit,
edit, floor (the edited photograph fitted in as many steps as the edit takes), seams, seconds of one
core, and with ``--parts`` the error without the metanet's rounds or without the plain steps.
``--edit rounds`` trains only the rounds that all edits share, ``--predictor-only`` the rest; then
``--rounds FILE`` and ``--predictor FILE`` take either from an editor. Writes
``editor.safetensors``, ``result.json`` and ``gallery.jpg`` to --out.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from experiments import frame
from gmn_opt.inr import (
    SirenConfig,
    WeightEditor,
    fit_tiles,
    load_editor,
    load_tiled,
    save_editor,
    save_tiled,
)
from gmn_opt.inr.edits import EDITS, PHOTO, edited, find_edit
from gmn_opt.inr.gallery import draw_gallery, error_image, levels
from gmn_opt.inr.photo_training import (
    TILE,
    PhotoTraining,
    make_tiles,
    new_photo_editor,
    train_predictor,
    train_rounds,
)
from gmn_opt.inr.settling import settle
from gmn_opt.inr.tiled import TiledInr
from gmn_opt.inr.tiled_editing import aim, edit_tiles
from gmn_opt.inr.tiled_fitting import FAMILIES, TILE_FIT, digest, photo_config, tile_fit
from gmn_opt.inr.tiling import cut, seam_ratio
from tasks.data.photo_collection import Part, licence, load_photo, names

#: By preset: CPU seconds of the predictor and of the rounds, tiles per architecture, photographs
#: to judge on and their side.
PRESETS = {
    "smoke": (2.0, 4.0, 8, 1, 72),
    "cpu": (60.0, 120.0, 48, 6, 256),
    "gpu": (900.0, 3600.0, 1000, 6, 256),
}
#: Grain, in levels, of photographs that are to be cleaned.
GRAIN = 8.0
STRENGTHS = (0.33, 0.67, 1.0)
ROUNDS = "rounds"
#: The edits whose reference images the rounds learn to move to.
_SHIPPED = tuple(PHOTO + n for n in ("contrast", "sharpen", "denoise", "warm", "sketch", "neon"))


def square(photo: Tensor, side: int) -> Tensor:
    """The middle of a photograph, uint8 ``[side, side, C]``, by area averaging."""
    least = min(photo.shape[:2])
    top, left = (photo.shape[0] - least) // 2, (photo.shape[1] - least) // 2
    middle = photo[top : top + least, left : left + least].permute(2, 0, 1)[None].float()
    return F.interpolate(middle, size=(side, side), mode="area")[0].permute(1, 2, 0).round().byte()


def subject(name: str, side: int, edit: str) -> Tensor:
    """A photograph to be edited: grainy where the edit learned on grain."""
    photo = square(load_photo(name), side)
    if not EDITS[edit].noise:
        return photo
    grain = np.random.default_rng(len(name)).normal(0, GRAIN, tuple(photo.shape))
    return (photo + torch.from_numpy(grain)).round().clamp(0, 255).byte()


@torch.enable_grad()
def fitted(
    image: Tensor, folder: Path, steps: int = TILE_FIT.steps, family: str = "siren"
) -> TiledInr:
    """A fit, kept in a folder by the image's digest."""
    kind = "" if family == "siren" else f"-{family}"
    path = folder / f"{digest(image)[:16]}-{steps}{kind}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        started = time.process_time()
        config = photo_config(image.shape[-1], family=family)
        tiled = fit_tiles(image, config, replace(tile_fit(config), steps=steps))
        save_tiled(path, tiled.with_params(tiled.params, cpu_seconds=_since(started)))
    return load_tiled(path)


def _values(image: Tensor) -> Tensor:
    return image.float() / 127.5 - 1


def _since(started: float) -> float:
    """Seconds of this process's CPU time: of one core, however busy the machine is."""
    return round(time.process_time() - started, 2)


def _mse(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


@torch.no_grad()
def judge_one(
    editor: WeightEditor, name: str, side: int, folder: Path,
    strengths: tuple[float, ...] = STRENGTHS, parts: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What becomes of one photograph; images under ``"shown"``, all else plain values.

    Strengths end with 1. With ``parts`` also what each part of the editor does alone.
    """
    edit = editor.config.edit
    photo = subject(name, side, edit)
    family = "siren" if isinstance(editor.inr, SirenConfig) else "grid"
    tiled = fitted(photo, folder, round(EDITS[edit].longer * TILE_FIT.steps), family)
    wanted = edited(_values(photo), edit)
    shown, steps = tiled.render(), {}
    for strength in strengths:
        started = time.process_time()
        steps[f"strength {strength:g}"] = edit_tiles(editor, tiled, strength).render()
        seconds = _since(started)
    result = steps[f"strength {strengths[-1]:g}"]
    # the floor takes as many steps on pixels as rounds and plain steps do
    count = editor.config.rounds + editor.config.settle
    floor = fitted(levels(wanted), folder, count, family).render()
    found = {
        "name": name,
        "licence": licence(name),
        "fit_psnr": tiled.about["psnr"],
        "worst_tile_psnr": tiled.about["worst_tile_psnr"],
        "fit_cpu_seconds": tiled.about["cpu_seconds"],
        "edit_and_render_cpu_seconds": seconds,
        "test_mse": _mse(result, wanted),
        "no_edit": _mse(shown, wanted),
        "floor": _mse(floor, wanted),
        "predicted": _mse(aim(editor, shown), wanted),
        "seam_ratio": seam_ratio(result, tiled.tiling),
        "seam_ratio_of_reference": seam_ratio(wanted, tiled.tiling),
        "seam_ratio_of_error": seam_ratio(result, tiled.tiling, wanted),
    }
    if parts:
        found |= _alone(editor, tiled, wanted)
    pictures = {"photograph": _values(photo), "its network": shown, **steps}
    pictures |= {"reference": wanted, "error": error_image(result, wanted)}
    return {**found, "shown": pictures}


def _alone(editor: WeightEditor, tiled: TiledInr, wanted: Tensor) -> dict[str, float]:
    """Errors without the metanet's rounds, and without the plain steps."""
    goals = cut(aim(editor, tiled.render()), tiled.tiling)
    known = editor.prepare(tiled.params, tiled.config)
    settled = settle(tiled.template(), known, goals, editor.config.settle)
    rounds = editor(tiled.params, tiled.config, goal=goals)
    return {
        "without_rounds": _mse(tiled.with_params(settled).render(), wanted),
        "rounds_alone": _mse(tiled.with_params(rounds).render(), wanted),
    }


def take_predictor(editor: WeightEditor, other: WeightEditor) -> Any:
    """Give an editor the predictor of another for the same edit, and say how that was trained."""
    if other.config.edit != editor.config.edit:
        raise ValueError(f"That editor is for {other.config.edit}, not for {editor.config.edit}.")
    mine, theirs = editor.refinement, other.refinement
    assert mine is not None
    assert theirs is not None
    mine.predictor.load_state_dict(theirs.predictor.state_dict())
    return other.about["predictor"]


def commit_of(weights: Path) -> str | None:
    """The commit of an editor's run, by the record beside it; parts taken over name their own."""
    record = weights.with_name("result.json")
    return frame.read_json(record)["environment"]["commit"] if record.exists() else None


def verdict(found: list[dict[str, Any]]) -> dict[str, float]:
    """Means over photographs, and the worst of what must hold for all."""
    worst = {
        "worst_fit_psnr": min(f["fit_psnr"] for f in found),
        "worst_tile_psnr": min(f["worst_tile_psnr"] for f in found),
        "share_of_no_edit": max(f["test_mse"] / f["no_edit"] for f in found),
        "times_floor": max(f["test_mse"] / f["floor"] for f in found),
        "seam_ratio": max(f["seam_ratio"] / f["seam_ratio_of_reference"] for f in found),
        "cpu_seconds": max(f["fit_cpu_seconds"] + f["edit_and_render_cpu_seconds"] for f in found),
    }
    keys = [k for k, v in found[0].items() if isinstance(v, float) and k not in worst]
    return {k: mean(f[k] for f in found) for k in keys} | worst


class Run:
    """One editor in the making, and the record of it."""

    def __init__(
        self, name: str, editor: WeightEditor, seed: int, family: str, console: Console
    ) -> None:
        self.name, self.editor, self.seed, self.family = name, editor, seed, family
        self.console = console
        self.record: dict[str, Any] = {"edit": name, "seed": seed, "family": family, "rounds": None}
        self._photos: list[Tensor] = []

    @property
    def photos(self) -> list[Tensor]:
        """What is trained on, read when it is needed."""
        self._photos = self._photos or [load_photo(n) for n in names("train")]
        return self._photos

    def report(self, done: float, step: int, loss: float) -> None:
        """Say how far it is."""
        self.console.print(f"{done:4.0%}, step {step}: {loss:.5f}")

    def move(self, seconds: float, tiles: int) -> None:
        """Train the metanet's rounds, on all edits that ship and this one."""
        config = PhotoTraining(seconds, batch=8, lr=3e-3)
        sets = make_tiles(self.photos, tiles, self.seed + 1, family=self.family)
        edits = _SHIPPED if self.name == ROUNDS else tuple({*_SHIPPED, self.name})
        made = train_rounds(self.editor, sets, edits, config, self.seed, self.report)
        made |= {"command": frame.command_line(), "tiles": tiles * len(sets), **asdict(config)}
        self.record["rounds"] = made

    def take(self, path: Path) -> None:
        """Take the predictor over from an editor for the same edit."""
        taken = take_predictor(self.editor, load_editor(path))
        self.record["predictor"] = {"commit": commit_of(path)} | taken

    def see(self, seconds: float, continued: bool = False, rate: float | None = None) -> None:
        """Train the predictor; one that was taken over at a lower rate, on other crops."""
        assert self.editor.refinement is not None
        mine, before = self.editor.refinement.predictor, self.record.get("predictor")
        config, seed = PhotoTraining(seconds), self.seed
        if continued and before is not None:
            config, seed = replace(config, lr=rate or 4e-3, batch=4), seed + before["steps"]
        made = train_predictor(mine, self.photos, self.name, config, seed, self.report)
        made |= {"command": frame.command_line(), **asdict(config)}
        if continued and before is not None:
            made |= {"began_as": before, "seconds": round(made["seconds"] + before["seconds"], 1)}
        self.record["predictor"] = made

    def save(self, weights: Path) -> None:
        """Write the editor, and what it is into the record."""
        record, editor = self.record, self.editor
        about = {"size": [TILE, TILE], "rounds": record["rounds"], "seed": self.seed}
        about["predictor"] = record.get("predictor")
        save_editor(weights, editor.requires_grad_(False).eval(), about)
        record |= {
            "sha256": sha256(weights.read_bytes()).hexdigest(),
            "parameters": sum(p.numel() for p in editor.parameters()),
            "editor": asdict(editor.config),
            "photographs": {p: len(names(p)) for p in ("train", "valid", "test")},
            "licences": sorted({licence(n).rpartition(", ")[2] for n in names("train")}),
            "target_range": [-1, 1],
        }


def draw(found: list[dict[str, Any]], path: Path, name: str) -> None:
    """The gallery of what `judge_one` found, whose images are taken out."""
    rows = [f.pop("shown") for f in found]
    columns = {k: torch.stack([r[k] for r in rows]) for k in rows[0]}
    title = f"{name.removeprefix(PHOTO)}: photographs never seen in training"
    draw_gallery(columns, path, title)


def main(
    edit: Annotated[str, typer.Option(help="A name, package.module:function, or rounds.")],
    out: Annotated[Path | None, typer.Option(help="Default: runs/photo_editing/EDIT.")] = None,
    preset: frame.Preset = "cpu",
    seed: frame.Seed = 0,
    rounds: Annotated[Path | None, typer.Option(help="Take these over from an editor.")] = None,
    predictor: Annotated[
        Path | None,
        typer.Option(
            help="Take this over from an editor; with --predictor-seconds it is trained on."
        ),
    ] = None,
    predictor_only: Annotated[bool, typer.Option(help="Train no rounds, judge nothing.")] = False,
    predictor_seconds: Annotated[float | None, typer.Option(help="CPU time.")] = None,
    predictor_rate: Annotated[
        float | None, typer.Option(help="Highest, of one that is trained on; default: 4e-3.")
    ] = None,
    rounds_seconds: Annotated[float | None, typer.Option(help="CPU time.")] = None,
    photos: Annotated[list[str] | None, typer.Option(help="To judge on; default: test.")] = None,
    whole: Annotated[bool, typer.Option(help="Judge at strength 1 alone.")] = False,
    parts: Annotated[bool, typer.Option(help="Judge each part of the editor alone, too.")] = False,
    family: Annotated[str, typer.Option(help="Of the tiles: siren or grid.")] = "siren",
    threads: frame.Threads = 1,
) -> None:
    """Train and judge an editor for photographs."""
    console = frame.begin(threads)
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        see, move, tiles, few, side = PRESETS[preset]
        name = ROUNDS if edit == ROUNDS else find_edit(edit, PHOTO).name
        frame.choose("family", family, FAMILIES)
        known = None if rounds is None else load_editor(rounds)
        editor = new_photo_editor(name, rounds_of=known, seed=seed, family=family)
        run = Run(name, editor, seed, family, console)
        run.record["preset"] = preset
        folder = out or Path("runs/photo_editing") / name.removeprefix(PHOTO)
        folder.mkdir(parents=True, exist_ok=True)
        if known is not None and rounds is not None:
            run.record["rounds"] = {"commit": commit_of(rounds)} | known.about["rounds"]
        elif not predictor_only:
            run.move(rounds_seconds or move, tiles)
        if predictor is not None:
            run.take(predictor)
        if name != ROUNDS and (predictor is None or predictor_seconds):
            run.see(predictor_seconds or see, predictor is not None, predictor_rate)
    run.save(folder / "editor.safetensors")
    if name != ROUNDS and not predictor_only:
        part: Part = "test"
        strengths = STRENGTHS[-1:] if whole else STRENGTHS
        found = [judge_one(editor, n, side, folder.parent / "fits", strengths, parts)
                 for n in photos or names(part)[:few]]  # fmt: skip
        draw(found, folder / "gallery.jpg", name)
        run.record |= {"side": side, "results": verdict(found), "tests": found}
        console.print(run.record["results"])
    frame.write_record(folder / "result.json", run.record)


if __name__ == "__main__":
    typer.run(main)
