"""`gmn-opt inr gallery`: original, network, edited network, reference and error, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gmn_opt.cli.errors import fail
from gmn_opt.cli.inr.photo_gallery import photograph_gallery, save_gallery
from gmn_opt.cli.inr.shared import (
    ONE_NETWORK,
    Editor,
    Force,
    Strength,
    check_image,
    check_out,
    check_strength,
    find_editor,
    image_file,
    is_for_images,
    say_changes,
    side_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gmn_opt.inr import WeightEditor


def make_gallery(
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture: NAME.png.")] = Path(
        "gallery.png"
    ),
    images: Annotated[
        list[Path] | None, typer.Argument(help="Your own images; by default bundled ones.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Bundled images: mnist, fashion_mnist, or pieces of chelsea, a photograph."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=32, help="How many of them.")] = 6,
    edit: Annotated[str | None, typer.Option("--edit", help="dilate, contrast, ...")] = None,
    editor: Editor = None,
    strength: Strength = 1.0,
    size: Annotated[
        int | None,
        typer.Option(
            min=2, max=1024, help="Longer side, 256 for photographs; up to 32: single networks."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Draw a grid: original, network, edited network, reference edit, error.

    Photographs of yours become tiles, edited at three strengths.
    """
    check_out(out, ".png", ".svg", ".pdf", force=force)
    check_strength(strength)
    for path in images or []:
        check_image(path)
    if images and (size or _largest(images)) > ONE_NETWORK:
        photograph_gallery(out, images, edit, editor, size)
        return
    chosen, called, pixels = _chosen(images or [], data, count, edit, editor)
    shown = _versions(chosen, called, pixels, strength)
    name, note = chosen.config.edit, ""
    if "reference" in shown:
        last = shown[f"edited ({strength:g})"]
        squared = float((last - shown["reference"]).double().square().mean())
        note = f", mean squared error {squared:.4g} in [-1, 1]"
    save_gallery(shown, out, name)
    images_made = "1 image" if len(pixels) == 1 else f"{len(pixels)} images"
    typer.echo(f"{out}: {images_made}, {name} by {called}{note}")


def _versions(
    editor: WeightEditor, called: str, pixels: Tensor, strength: float
) -> dict[str, Tensor]:
    """Columns of a gallery of single networks, ``[N, H, W, C]`` in [-1, 1]."""
    import torch

    from gmn_opt.inr import FitConfig, fit_batch, render
    from gmn_opt.inr.edits import EDITS, edited
    from gmn_opt.inr.fitting import as_targets
    from gmn_opt.inr.gallery import error_image

    config = editor.inr
    status = Console(stderr=True)
    with status.status(f"Fitting {len(pixels)} networks"):
        found = fit_batch(pixels, config, FitConfig())
    shape, inr, title = (pixels.shape[1], pixels.shape[2]), config.build(), f"edited ({strength:g})"
    with status.status("Editing and rendering"), torch.no_grad():
        columns = {
            "image": as_targets(pixels, config),
            "network": render(inr, shape, found.params),
            title: render(inr, shape, editor.edit_batch(found.params, strength=strength)),
        }
    if not all(bool(values.isfinite().all()) for values in columns.values()):
        fail(f"{called} gives values that are no finite numbers; lower --strength")
    low, high = config.value_range
    shown = {title: (values - low) * (2 / (high - low)) - 1 for title, values in columns.items()}
    if editor.config.edit in EDITS:
        reference = edited(shown["image"], editor.config.edit)
        shown |= {"reference": reference, "error": error_image(shown[title], reference)}
    return shown


def _largest(images: list[Path]) -> int:
    """Longer side of the first image."""
    from gmn_opt.inr.photos import PhotoError, read_photo

    try:
        return max(read_photo(image_file(images[0])).pixels.shape[:2])
    except PhotoError as error:
        fail(str(error))


def _chosen(
    paths: list[Path], data: str | None, count: int, edit: str | None, path: Path | None
) -> tuple[WeightEditor, str, Tensor]:
    """The editor, what it is called, and uint8 images ``[N, H, W, C]`` for it.

    A given editor decides on the images' channels; otherwise images do, and otherwise the edit
    does. Without an edit, it is the first for which an editor ships for these channels.
    """
    from gmn_opt.inr import shipped_editors

    channels = None if path is not None else _channels(paths, data, edit)
    if path is None and edit is None and shipped_editors(channels):
        edit = shipped_editors(channels)[0].split("-")[1]
    editor, called = find_editor(edit, path, channels)
    if not is_for_images(editor.inr):
        fail(f"{called} edits networks of {editor.inr}; a gallery shows images, grey or in colour")
    return editor, called, _images(paths, data, count, editor)


def _channels(paths: list[Path], data: str | None, edit: str | None) -> int | None:
    """Of the first image, of the bundled ones, or what there is an editor for; None if none."""
    from gmn_opt.inr import shipped_editors
    from gmn_opt.inr.editor_files import editor_name
    from gmn_opt.inr.photos import PhotoError, read_photo

    if paths:
        try:
            return read_photo(image_file(paths[0])).pixels.shape[-1]
        except PhotoError as error:
            fail(str(error))
    if data is not None:
        if data not in _bundled():
            fail(f"no bundled images {data!r}; there are {', '.join(_bundled())}")
        return _bundled()[data]
    if edit is None:
        return 1
    return next((c for c in (1, 3) if editor_name(edit, c) in shipped_editors()), None)


def _bundled() -> dict[str, int]:
    """Bundled images by name, and their channels."""
    from gmn_opt.data import bundled_names, photograph_names

    return dict.fromkeys(bundled_names(), 1) | dict.fromkeys(photograph_names(), 3)


def _images(paths: list[Path], data: str | None, count: int, editor: WeightEditor) -> Tensor:
    """uint8 ``[N, H, W, C]``: the images given, or bundled ones."""
    import torch

    from gmn_opt.data import load_bundled, load_photograph, photograph_names
    from gmn_opt.inr.editor_files import colours
    from gmn_opt.inr.photos import PhotoError, read_photo, tiles

    channels, side = editor.inr.outputs, side_of(editor)
    if not paths:
        data = data or ("mnist" if channels == 1 else "chelsea")
        if _bundled().get(data) != channels:
            fail(
                f"{data} is no data set of {colours(channels)} images, which this editor is for; "
                f"there are {', '.join(n for n, c in _bundled().items() if c == channels)}"
            )
        try:
            if data in photograph_names():
                return tiles(load_photograph(data), side)[:count]
            return load_bundled(data).test_images[:count].unsqueeze(-1)
        except RuntimeError as error:
            fail(str(error))
    try:
        photos = [read_photo(image_file(path), side, channels) for path in paths]
    except PhotoError as error:
        fail(str(error))
    for path, photo in zip(paths, photos, strict=True):
        say_changes(photo.changes, path)
    return torch.stack([photo.pixels for photo in photos])
