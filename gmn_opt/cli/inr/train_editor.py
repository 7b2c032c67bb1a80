"""`gmn-opt inr train-editor`: an editor for photographs, for an edit of your own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmn_opt.cli.errors import fail
from gmn_opt.cli.inr.shared import Family, Force, check_family, check_image, check_out, image_file
from gmn_opt.cli.inr.tiled import told_progress

if TYPE_CHECKING:
    from torch import Tensor

    from gmn_opt.inr import WeightEditor

#: Tiles of each architecture that rounds learn on where none are taken over.
_TILES = 48


def train_editor(
    edit: Annotated[
        str, typer.Argument(help="package.module:function on uint8 images [H, W, C], or a name.")
    ],
    photos: Annotated[list[Path], typer.Argument(help="Photographs to learn on.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The editor: NAME.safetensors.")],
    seconds: Annotated[
        float, typer.Option(min=1, help="CPU time of each of the two parts of training.")
    ] = 120,
    rounds_of: Annotated[
        Path | None,
        typer.Option(help="Take the metanet's rounds over from this editor; trains them else."),
    ] = None,
    family: Family = "siren",
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    force: Force = False,
) -> None:
    """Train an editor of photographs for any edit that is a function on images."""
    check_out(out, ".safetensors", force=force)
    check_family(family)
    for path in photos:
        check_image(path)
    sys.path.insert(0, str(Path.cwd()))  # where your module is
    from gmn_opt.inr import load_editor, save_editor
    from gmn_opt.inr.edits import PHOTO, find_edit
    from gmn_opt.inr.photo_training import new_photo_editor
    from gmn_opt.weights import WeightsError

    try:
        name = find_edit(edit, PHOTO).name
        images = _colour(photos)
        known = None if rounds_of is None else load_editor(rounds_of, 3)
        editor = new_photo_editor(name, 3, known, seed, family)
    except (ValueError, WeightsError) as error:
        fail(str(error))
    about = _train(editor, name, images, seconds, seed, None if known else family)
    try:
        save_editor(out, editor, about)
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    typer.echo(
        f"{out}: {name}, {about['predictor']['steps']} steps, mean squared error of the predicted "
        f"image {about['predictor']['loss']:.2g} in [-1, 1]"
    )


def _train(
    editor: WeightEditor, name: str, images: list[Tensor], seconds: float, seed: int,
    family: str | None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Rounds on tiles of a family, or none, and the predictor; what is kept with the editor."""
    from gmn_opt.inr.photo_training import (
        TILE,
        PhotoTraining,
        make_tiles,
        train_predictor,
        train_rounds,
    )

    about: dict[str, dict[str, float]] = {}
    with told_progress("Training") as tell:

        def report(done: float, step: int, loss: float) -> None:
            tell(done, f"step {step}, loss {loss:.4f}, {seconds * (1 - done):.0f} s left")

        if family is not None:
            sets = make_tiles(images, _TILES, seed + 1, family=family)
            config = PhotoTraining(seconds, batch=8, lr=3e-3)
            about["rounds"] = train_rounds(editor, sets, [name], config, seed, report)
        assert editor.refinement is not None
        about["predictor"] = train_predictor(
            editor.refinement.predictor, images, name, PhotoTraining(seconds), seed, report
        )
    return {**about, "size": [TILE, TILE]}  # type: ignore[dict-item]


def _colour(photos: list[Path]) -> list[Tensor]:
    """Photographs in colour, uint8 ``[H, W, 3]``, of at least a tile's size."""
    from gmn_opt.inr.photos import read_photo

    found = []
    for path in photos:
        pixels = read_photo(image_file(path), channels=3, longest=1024).pixels
        if min(pixels.shape[:2]) < 80:
            raise ValueError(f"{path} is too small to learn on; 80 pixels a side are the least.")
        found.append(pixels)
    return found
