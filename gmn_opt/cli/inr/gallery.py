"""`gmn-opt inr gallery`: original, network, edited network, reference and error, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gmn_opt.cli.errors import fail
from gmn_opt.cli.inr.shared import Editor, check_out, find_editor, say_changes, side_of

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
    data: Annotated[str, typer.Option(help="Bundled images: mnist or fashion_mnist.")] = "mnist",
    count: Annotated[int, typer.Option(min=1, max=32, help="How many of them.")] = 6,
    edit: Annotated[str | None, typer.Option("--edit", help="dilate, contrast, ...")] = None,
    editor: Editor = None,
    strength: Annotated[float, typer.Option(help="Of the edit.")] = 1.0,
) -> None:
    """Draw a grid: original, network, edited network, reference edit, error."""
    import torch

    from gmn_opt.inr import FitConfig, fit_batch, render
    from gmn_opt.inr.edits import EDITS, edited
    from gmn_opt.inr.fitting import as_targets
    from gmn_opt.inr.gallery import draw_gallery, error_image

    check_out(out, ".png", ".svg", ".pdf")
    chosen, called, pixels = _chosen(images or [], data, count, edit, editor)
    config = chosen.inr
    status = Console(stderr=True)
    with status.status(f"Fitting {len(pixels)} networks"):
        found = fit_batch(pixels, config, FitConfig())
    targets = as_targets(pixels, config)
    size, inr = (pixels.shape[1], pixels.shape[2]), config.build()
    with status.status("Editing and rendering"), torch.no_grad():
        shown = {
            "image": targets,
            "network": render(inr, size, found.params),
            f"edited ({strength:g})": render(inr, size, chosen(found.params, strength=strength)),
        }
    name = chosen.config.edit
    note = ""
    if name in EDITS:
        reference = edited(targets, name)
        last = shown[f"edited ({strength:g})"]
        shown |= {"reference": reference, "error": error_image(last, reference)}
        note = f", mean squared error {float((last - reference).square().mean()):.4f} in [-1, 1]"
    try:
        draw_gallery(shown, out, f"{name}: only the weights were edited")
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    typer.echo(f"{out}: {len(pixels)} images, {name} by {called}{note}")


def _chosen(
    paths: list[Path], data: str, count: int, edit: str | None, path: Path | None
) -> tuple[WeightEditor, str, Tensor]:
    """The editor, what it is called, and uint8 images ``[N, H, W, C]`` for it.

    A given editor decides on the images' channels; otherwise the first image does, and bundled
    ones are grey. Without an edit, the first editor that ships for these channels.
    """
    from gmn_opt.inr import shipped_editors
    from gmn_opt.inr.photos import PhotoError, read_photo

    channels = None
    if path is None:
        try:
            channels = read_photo(paths[0]).pixels.shape[-1] if paths else 1
        except PhotoError as error:
            fail(str(error))
        if edit is None and shipped_editors(channels):
            edit = shipped_editors(channels)[0].split("-")[1]
    editor, called = find_editor(edit, path, channels)
    return editor, called, _images(paths, data, count, editor)


def _images(paths: list[Path], data: str, count: int, editor: WeightEditor) -> Tensor:
    """uint8 ``[N, H, W, C]``: the images given, or the first bundled test images."""
    import torch

    from gmn_opt.data import bundled_names, load_bundled
    from gmn_opt.inr.photos import PhotoError, read_photo

    channels = editor.inr.outputs
    if not paths:
        if data not in bundled_names():
            fail(f"no bundled images {data!r}; there are {', '.join(bundled_names())}")
        if channels != 1:
            fail("the bundled images are grey, and this editor is for colour; give images")
        return load_bundled(data).test_images[:count].unsqueeze(-1)
    try:
        photos = [read_photo(path, side_of(editor), channels) for path in paths]
    except PhotoError as error:
        fail(str(error))
    for path, photo in zip(paths, photos, strict=True):
        say_changes(photo.changes, path)
    return torch.stack([photo.pixels for photo in photos])
