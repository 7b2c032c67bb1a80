"""`gmn-opt inr`: an image becomes a network, the network is edited, the result is looked at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gmn_opt.cli.errors import fail

if TYPE_CHECKING:
    from torch import Tensor

    from gmn_opt.inr import Inr, WeightEditor

inr_app = typer.Typer(help="Images as networks: fit them, edit their weights, look at them.")

_Omega = Annotated[float, typer.Option(help="Frequency factor of a SIREN from elsewhere.")]
_Editor = Annotated[
    Path | None, typer.Option("--editor", metavar="FILE", help="A trained editor of your own.")
]
#: Side of the images that an editor was made for, by their channels, where nothing else says it.
_SIDES = {1: 28, 3: 32}


@inr_app.command("fit")
def fit_image(
    image: Annotated[Path, typer.Argument(help="A PNG or JPEG with 8 bits per channel.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The network: NAME.safetensors.")],
    grey: Annotated[
        bool | None, typer.Option("--grey/--colour", help="By default as the image is.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=2, help="Side to bring it to; by default 28 for grey, 32 for colour."),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Width of the two hidden layers.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Most steps.")] = 1000,
    psnr: Annotated[float, typer.Option(help="Stop at this many dB.")] = 40.0,
    seed: Annotated[int, typer.Option(help="Of the initial weights.")] = 0,
) -> None:
    """Fit a network to an image: its weights are the image then."""
    from gmn_opt.inr import FitConfig, SirenConfig, fit_batch, save_inr, unstack
    from gmn_opt.inr.photos import PhotoError, read_photo

    _check_out(out, ".safetensors")
    try:
        channels = None if grey is None else 1 if grey else 3
        plain = read_photo(image, channels=channels)
        side = size or _SIDES[plain.pixels.shape[-1]]
        photo = read_photo(image, side, channels)
    except PhotoError as error:
        fail(str(error))
    _say_changes(photo.changes)
    count = photo.pixels.shape[-1]
    config = SirenConfig(2, count, (width, width))
    fit = FitConfig(steps=steps, target_psnr=psnr)
    with Console(stderr=True).status("Fitting"):
        found = fit_batch(photo.pixels.unsqueeze(0), config, fit, seed=seed)
    inr = unstack(config.build(), found.params, 0)
    reached = float(found.psnr[0])
    about = {"size": [side, side], "psnr": round(reached, 2), "source": image.name}
    try:
        save_inr(out, inr, about)
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    parameters = sum(p.numel() for p in inr.parameters())
    typer.echo(
        f"{out}: SIREN 2-{width}-{width}-{count}, {parameters:,} parameters, {reached:.1f} dB "
        f"after {int(found.steps[0])} steps in {found.seconds:.1f} s"
    )


@inr_app.command("edit")
def edit_inr(
    network: Annotated[Path, typer.Argument(help="A network that `gmn-opt inr fit` wrote.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The edited one: NAME.safetensors.")],
    edit: Annotated[
        str | None, typer.Option("--edit", help="What to do: dilate, contrast, ...")
    ] = None,
    editor: _Editor = None,
    strength: Annotated[
        float, typer.Option(help="0 for nothing, 1 for the edit; between and beyond interpolates.")
    ] = 1.0,
    omega: _Omega = 30.0,
) -> None:
    """Edit the weights of a network, without ever looking at its picture."""
    from gmn_opt.inr import save_inr

    _check_out(out, ".safetensors")
    inr, about = _load(network, omega)
    chosen = _find_editor(edit, editor, inr.config.outputs)
    started = time.perf_counter()
    try:
        done = chosen.edit(inr, strength)
    except ValueError as error:
        fail(f"{network}: {error}")
    seconds = time.perf_counter() - started
    edits = [*about.get("edits", []), {"edit": chosen.config.edit, "strength": strength}]
    try:
        save_inr(out, done, {**about, "edits": edits})
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    typer.echo(f"{out}: {chosen.config.edit}, strength {strength:g}, in {seconds:.2f} s")


@inr_app.command("render")
def render_inr(
    network: Annotated[Path, typer.Argument(help="A network, in safetensors.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The image: NAME.png.")],
    size: Annotated[
        int | None, typer.Option(min=1, max=16384, help="Side; by default that of its image.")
    ] = None,
    omega: _Omega = 30.0,
) -> None:
    """Render a network to an image of any size."""
    import torch

    from gmn_opt.inr import render
    from gmn_opt.inr.gallery import levels
    from gmn_opt.inr.photos import PhotoError, check_name, write_photo

    _check_out(out)
    try:
        check_name(out)
    except PhotoError as error:
        fail(str(error))
    inr, about = _load(network, omega)
    if inr.config.inputs != 2 or inr.config.outputs not in (1, 3):
        fail(
            f"{network} maps {inr.config.inputs} coordinates to {inr.config.outputs} values; an "
            "image takes 2 coordinates, and 1 or 3 values"
        )
    side = size or about.get("size", [_SIDES[inr.config.outputs]])[0]
    with Console(stderr=True).status("Rendering"), torch.no_grad():
        values = render(inr, side)
    if not bool(values.isfinite().all()):
        fail(f"{network} gives values that are no finite numbers; its weights are damaged")
    try:
        write_photo(out, levels(values, inr.config.value_range))
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    typer.echo(f"{out}: {side}x{side}")


@inr_app.command("gallery")
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
    editor: _Editor = None,
    strength: Annotated[float, typer.Option(help="Of the edit.")] = 1.0,
) -> None:
    """Draw a grid: original, network, edited network, reference edit, error."""
    import torch

    from gmn_opt.inr import FitConfig, SirenConfig, fit_batch, render
    from gmn_opt.inr.edits import EDITS, edited
    from gmn_opt.inr.fitting import as_targets
    from gmn_opt.inr.gallery import draw_gallery, error_image

    _check_out(out, ".png", ".svg", ".pdf")
    chosen = None
    if editor is not None or not images:
        chosen = _find_editor(edit, editor, None if editor is not None else 1)
    pixels = _gallery_images(images or [], data, count, chosen)
    channels = pixels.shape[-1]
    chosen = chosen or _find_editor(edit, editor, channels)
    config = chosen.inr
    if not isinstance(config, SirenConfig) or config.outputs != channels:
        fail(f"this editor is for {config}, not for images of {channels} channels")
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
    typer.echo(f"{out}: {len(pixels)} images, {name}{note}")


# ---------------------------------------------------------------------- shared


def _gallery_images(
    paths: list[Path], data: str, count: int, editor: WeightEditor | None
) -> Tensor:
    """uint8 ``[N, H, W, C]``: the images given, or the first bundled test images."""
    import torch

    from gmn_opt.data import bundled_names, load_bundled
    from gmn_opt.inr.photos import PhotoError, read_photo

    if not paths:
        if data not in bundled_names():
            fail(f"no bundled images {data!r}; there are {', '.join(bundled_names())}")
        grey = load_bundled(data).test_images[:count].unsqueeze(-1)
        wanted = editor.inr.outputs if editor else 1
        if wanted != 1:
            fail("the bundled images are grey, and this editor is for colour; give images")
        return grey
    try:
        channels = editor.inr.outputs if editor else read_photo(paths[0]).pixels.shape[-1]
        photos = [read_photo(path, _SIDES[channels], channels) for path in paths]
    except PhotoError as error:
        fail(str(error))
    for photo in photos:
        _say_changes(photo.changes)
    return torch.stack([photo.pixels for photo in photos])


def _find_editor(edit: str | None, path: Path | None, channels: int | None) -> WeightEditor:
    """The editor in a file, or the shipped one for an edit and a number of channels."""
    from gmn_opt.inr import load_editor
    from gmn_opt.weights import WeightsError, available
    from gmn_opt.weights.shipped import path_of

    if path is None:
        shipped = [n.removeprefix("inr-") for n in available() if n.startswith("inr-")]
        kind = {1: "grey", 3: "colour"}.get(channels or 0)
        if edit is None:
            fail(
                f"say which edit with --edit; there are {', '.join(shipped) or 'none shipped yet'}"
            )
        name = f"inr-{edit}-{kind}"
        if name not in available():
            fail(
                f"no editor for {edit!r} on {kind or f'{channels}-channel'} images comes with this "
                f"installation (there are: {', '.join(shipped) or 'none'}); train one with "
                "`python -m experiments.inr_editing`, and pass it with --editor"
            )
        path = path_of(name)
    try:
        found = load_editor(path)
    except WeightsError as error:
        fail(str(error))
    if edit is not None and found.config.edit != edit:
        fail(f"{path} is an editor for {found.config.edit!r}, not for {edit!r}")
    if channels is not None and found.inr.outputs != channels:
        fail(
            f"{path} edits networks of {found.inr.outputs} channels, this one has {channels}; "
            f"fit it with --{'grey' if found.inr.outputs == 1 else 'colour'}, or take another "
            "editor"
        )
    return found


def _load(path: Path, omega: float) -> tuple[Inr, dict[str, Any]]:
    from gmn_opt.inr import read_inr
    from gmn_opt.weights import WeightsError

    try:
        return read_inr(path, omega=omega)
    except WeightsError as error:
        fail(str(error))


def _say_changes(changes: tuple[str, ...]) -> None:
    if changes:
        typer.echo(f"changed: {'; '.join(changes)}", err=True)


def _check_out(path: Path, *suffixes: str) -> None:
    """Refuse before anything is computed."""
    if suffixes and path.suffix.lower() not in suffixes:
        fail(f"cannot write {path}: the name must end in {', '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        fail(f"cannot write {path}: {path.parent} is not a folder")
    if path.is_dir():
        fail(f"cannot write {path}: it is a folder")
