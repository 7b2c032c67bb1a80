"""`gmn-opt inr gallery` for photographs: the photo, its network, the edit at three strengths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gmn_opt.cli.errors import fail
from gmn_opt.cli.inr.shared import image_file, say_changes
from gmn_opt.cli.inr.tiled import photo_editor, told_progress

if TYPE_CHECKING:
    from torch import Tensor

    from gmn_opt.inr import WeightEditor

#: Longer side of the pictures, unless asked otherwise.
SIDE = 256
STRENGTHS = (0.33, 0.67, 1.0)


def photograph_gallery(
    out: Path, images: list[Path], edit: str | None, path: Path | None, size: int | None
) -> None:
    """Draw a row per photograph; its shorter sides are filled up with white."""
    import torch

    from gmn_opt.inr.photos import PhotoError, read_photo

    try:
        photos = [read_photo(image_file(i), longest=size or SIDE) for i in images]
    except PhotoError as error:
        fail(str(error))
    editor, called = photo_editor(edit, path, photos[0].pixels.shape[-1])
    rows = []
    with told_progress("Gallery") as tell:
        for number, (image, photo) in enumerate(zip(images, photos, strict=True)):
            tell(number / len(images), str(image))
            say_changes(photo.changes, image)
            if photo.pixels.shape[-1] != editor.inr.outputs:
                fail(f"{image} has another number of channels than {called} is for")
            rows.append(_row(photo.pixels, editor))
    sides = [max(r["photograph"].shape[axis] for r in rows) for axis in (0, 1)]
    columns = {
        title: torch.stack([_on_white(r[title], sides[0], sides[1]) for r in rows])
        for title in rows[0]
    }
    name = editor.config.edit.removeprefix("photo-")
    save_gallery(columns, out, name)
    typer.echo(f"{out}: {len(rows)} photograph{'s' * (len(rows) > 1)}, {name} by {called}")


def save_gallery(columns: dict[str, Tensor], out: Path, name: str) -> None:
    """Draw the columns of an edit, or refuse."""
    from gmn_opt.inr.gallery import draw_gallery

    try:
        draw_gallery(columns, out, f"{name}: only the weights were edited")
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")


def _row(pixels: Tensor, editor: WeightEditor) -> dict[str, Tensor]:
    """All versions of one photograph, ``[H, W, C]`` in [-1, 1]."""
    import torch

    from gmn_opt.inr import fit_tiles
    from gmn_opt.inr.edits import EDITS, edited
    from gmn_opt.inr.gallery import error_image
    from gmn_opt.inr.tiled_editing import edit_tiles
    from gmn_opt.inr.tiled_fitting import TILE_FIT

    image = pixels.float() / 127.5 - 1
    longer = EDITS[editor.config.edit].longer if editor.config.edit in EDITS else 1.0
    fit = replace(TILE_FIT, steps=round(longer * TILE_FIT.steps))
    tiled = fit_tiles(pixels, fit=fit)
    with torch.no_grad():
        row = {"photograph": image, "its network": tiled.render()}
        for strength in STRENGTHS:
            row[f"strength {strength:g}"] = edit_tiles(editor, tiled, strength).render()
    if editor.config.edit in EDITS:
        row["reference"] = edited(image, editor.config.edit)
        row["error"] = error_image(row[f"strength {STRENGTHS[-1]:g}"], row["reference"])
    return row


def _on_white(image: Tensor, height: int, width: int) -> Tensor:
    out = image.new_ones(height, width, image.shape[-1])
    out[: image.shape[0], : image.shape[1]] = image
    return out
