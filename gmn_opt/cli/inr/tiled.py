"""Photographs at their own size: fitting and editing tiled INRs, with progress and an estimate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from gmn_opt.cli.errors import fail
from gmn_opt.cli.inr.shared import (
    ONE_NETWORK,
    PICTURES,
    enough_memory,
    find_editor,
    image_file,
    say_changes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gmn_opt.inr import InrConfig, TiledInr, WeightEditor

#: Seconds between plain lines of progress.
_BETWEEN = 5.0
#: Longer side that larger photographs are reduced to, unless --size says otherwise.
LONGEST = 1024


@dataclass(frozen=True)
class TileOptions:
    """What `inr fit` was asked for; None for what serves photographs."""

    width: int | None
    steps: int | None
    target: float | None
    seed: int
    family: str = "siren"


@contextmanager
def told_progress(what: str) -> Iterator[Callable[[float, str], None]]:
    """A function ``tell(share done, text)``: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[info]}")
    last = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, info="")

        def tell(done: float, text: str) -> None:
            nonlocal last
            bar.update(task, completed=done, info=text)
            if not console.is_terminal and time.monotonic() - last >= _BETWEEN:
                last = time.monotonic()
                typer.echo(f"{what} {done:.0%}, {text}", err=True)

        yield tell


def fit_photograph(pixels: Tensor, out: Path, source: str, options: TileOptions) -> TiledInr:
    """Fit a tiled INR; says what it will take. What was done of a stopped fit is taken up again."""
    from gmn_opt.inr.tiled_fitting import (
        FitProgress,
        estimate,
        fit_tiles,
        tile_fit,
    )
    from gmn_opt.weights import WeightsError

    config = network_of(options, pixels.shape[-1])
    steps = options.steps or tile_fit(config).steps
    fit = replace(tile_fit(config), steps=steps, target_psnr=options.target)
    parts = out.with_name(f"{out.name}.part")
    with enough_memory("lower --size or --width"):
        expected = estimate(pixels, config, fit)
        typer.echo(f"{pixels.shape[1]}x{pixels.shape[0]} pixels: about {expected:.0f} s", err=True)
        with told_progress("Fitting") as tell:

            def report(p: FitProgress) -> None:
                step = round(p.done * steps)
                tell(p.done, f"step {step} of {steps}, {p.psnr:.1f} dB, {p.left:.0f} s left")

            try:
                tiled = fit_tiles(
                    pixels, config, fit, seed=options.seed, parts=parts, on_progress=report
                )
            except WeightsError as error:
                fail(str(error))
            except OSError as error:
                fail(f"cannot write {parts}: {error.strerror or error}")
    return tiled.with_params(tiled.params, source=source)


def network_of(options: TileOptions, channels: int) -> InrConfig:
    """What a tile is to be."""
    from gmn_opt.inr.tiled_fitting import photo_config

    made = photo_config(channels, family=options.family)
    width = options.width
    return made if width is None else replace(made, widths=(width,) * len(made.widths))


def save_photograph(out: Path, tiled: TiledInr) -> None:
    """Write a tiled INR, or refuse."""
    from gmn_opt.inr import save_tiled

    try:
        save_tiled(out, tiled)
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")


def described(config: InrConfig) -> str:
    """A network's family and sizes, in words."""
    from gmn_opt.inr import PyramidConfig

    if isinstance(config, PyramidConfig):
        grids = ", ".join(f"{n}x{n}" for n in config.resolutions)
        sizes = "-".join(map(str, config.sizes))
        return f"pyramid of grids {grids} with a decoder {sizes}"
    return f"SIREN {'-'.join(map(str, (config.inputs, *config.widths, config.outputs)))}"


def summary(tiled: TiledInr) -> str:
    """What was fitted, in a line."""
    rows, columns = tiled.tiling.grid
    parameters = sum(p.numel() for p in tiled.params.values())
    about = tiled.about
    return (
        f"{columns}x{rows} tiles, each a {described(tiled.config)}; {parameters:,} "
        f"parameters, {about['psnr']:.1f} dB (worst tile {about['worst_tile_psnr']:.1f}) in "
        f"{about['seconds']:.1f} s"
    )


def load_photograph_network(path: Path) -> TiledInr:
    """The tiled INR in a file, or one message."""
    from gmn_opt.inr import load_tiled
    from gmn_opt.weights import WeightsError

    try:
        return load_tiled(path)
    except WeightsError as error:
        fail(str(error))


def photo_editor(edit: str | None, path: Path | None, channels: int) -> tuple[WeightEditor, str]:
    """An editor of tiled INRs: from a file, or the shipped one for an edit."""
    from gmn_opt.inr.editor_files import editor_name, shipped_editors
    from gmn_opt.inr.edits import PHOTO
    from gmn_opt.inr.tiled_editing import serves_tiles

    shipped = [n for n in shipped_editors(channels) if n.startswith(f"inr-{PHOTO}")]
    names = ", ".join(n.removeprefix(f"inr-{PHOTO}").rpartition("-")[0] for n in shipped)
    if path is None:
        if edit is None:
            fail(f"say which edit with --edit ({names or 'none ships'}), or give a file with "
                 "--editor")  # fmt: skip
        full = edit if edit.startswith(PHOTO) else PHOTO + edit
        if editor_name(full, channels) not in shipped:
            small = next((c for c in (1, 3) if editor_name(edit, c) in shipped_editors()), channels)
            way = " --grey" if small == 1 and channels == 3 else ""
            there = f"there are {names}" if names else "none ships for grey ones; fit with --colour"
            known = editor_name(edit, small) in shipped_editors()
            hint = f"; {edit} is for small images: fit with --size 32{way}" if known else ""
            fail(f"there is no editor for {edit!r} on photographs of this size; {there}{hint}")
        edit = full
    elif edit is not None and not edit.startswith(PHOTO):
        edit = PHOTO + edit
    editor, called = find_editor(edit, path, channels)
    if not serves_tiles(editor):
        fail(f"{called} edits single networks, not tiled ones; fit the image with --size 32")
    return editor, called


def edit_photograph(
    source: Path, out: Path, edit: str | None, path: Path | None, strength: float
) -> None:
    """Edit a tiled INR, or a photograph that becomes one, into a network or a picture of it."""
    from gmn_opt.inr.tiled_editing import edit_tiles

    started = time.perf_counter()
    tiled, editor, called = _found(source, out, edit, path)
    began = time.perf_counter()
    with told_progress("Editing") as tell, enough_memory("fit at a smaller --size"):

        def report(done: float) -> None:
            seconds = (time.perf_counter() - began) * (1 - done) / max(done, 1e-9)
            tell(done, f"{seconds:.0f} s left")

        try:
            done = edit_tiles(editor, tiled, strength, report)
        except ValueError as error:
            fail(f"{source}: {error}")
        if out.suffix.lower() in PICTURES:
            _write_picture(out, done)
        else:
            save_photograph(out, done)
    took = time.perf_counter() - started
    typer.echo(f"{out}: {editor.config.edit}, strength {strength:g}, by {called} in {took:.1f} s")


def _found(
    source: Path, out: Path, edit: str | None, path: Path | None
) -> tuple[TiledInr, WeightEditor, str]:
    """The network in a file or of a photograph, an editor for it, and what that is called."""
    from gmn_opt.inr.photos import PhotoError, read_photo
    from gmn_opt.inr.tiled import is_tiled

    if source.is_file() and is_tiled(source):
        tiled = load_photograph_network(source)
        if not all(bool(p.isfinite().all()) for p in tiled.params.values()):
            fail(f"{source} holds weights that are no finite numbers")
        editor, called = photo_editor(edit, path, tiled.config.outputs)
        _say_if_coarse(tiled, editor)
        return tiled, _serving(editor, tiled, called), called
    try:
        # editors that ship are for colour
        channels = 3 if path is None else None
        photo = read_photo(image_file(source), channels=channels, longest=LONGEST)
    except PhotoError as error:
        fail(str(error))
    say_changes(photo.changes, source)
    if max(photo.pixels.shape[:2]) <= ONE_NETWORK:
        fail(f"{source} is small enough for one network; fit it first with `gmn-opt inr fit`")
    # what is wrong with the edit is to be said before the fit
    editor, called = photo_editor(edit, path, photo.pixels.shape[-1])
    options = TileOptions(width=None, steps=_steps_for(editor), target=None, seed=0)
    tiled = fit_photograph(photo.pixels, out, source.name, options)
    typer.echo(summary(tiled), err=True)
    return tiled, editor, called


def _steps_for(editor: WeightEditor) -> int | None:
    """Steps of a fit that is to be edited; None for the usual ones."""
    from gmn_opt.inr.edits import EDITS
    from gmn_opt.inr.tiled_fitting import TILE_FIT

    known = EDITS.get(editor.config.edit)
    return round(known.longer * TILE_FIT.steps) if known and known.longer > 1 else None


def _say_if_coarse(tiled: TiledInr, editor: WeightEditor) -> None:
    """Say so where an edit enlarges what a short fit left."""
    fit, wanted = tiled.about.get("fit"), _steps_for(editor)
    steps = fit.get("steps") if isinstance(fit, dict) else None
    if wanted and type(steps) is int and steps < wanted:
        typer.echo(
            f"note: {editor.config.edit} enlarges what the fit of {steps} steps left; fit with "
            f"--steps {wanted} for a better picture",
            err=True,
        )


def _serving(editor: WeightEditor, tiled: TiledInr, called: str) -> WeightEditor:
    """The editor itself, or what it makes of tiles of another family than its own."""
    from gmn_opt.inr.tiled_editing import for_family

    if type(editor.inr) is type(tiled.config):
        return editor
    typer.echo(
        f"note: {called} was trained on tiles of family {editor.inr.family}; on family "
        f"{tiled.config.family} plain steps do what its metanet learned there",
        err=True,
    )
    return for_family(editor, tiled.config)


def _write_picture(out: Path, tiled: TiledInr) -> None:
    import torch

    from gmn_opt.inr.gallery import levels
    from gmn_opt.inr.photos import PhotoError, write_photo

    try:
        with torch.no_grad():
            write_photo(out, levels(tiled.render(), tiled.config.value_range))
    except PhotoError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
