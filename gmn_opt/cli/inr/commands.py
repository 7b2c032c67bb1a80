"""`gmn-opt inr fit`, `edit` and `render`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gmn_opt.cli.errors import fail
from gmn_opt.cli.inr.gallery import make_gallery
from gmn_opt.cli.inr.shared import (
    LARGEST,
    SIDES,
    Editor,
    Omega,
    Strength,
    check_out,
    check_strength,
    enough_memory,
    find_editor,
    image_file,
    is_for_images,
    load_network,
    say_changes,
    side_of,
    size_in,
)

if TYPE_CHECKING:
    from gmn_opt.inr.photos import Photo

#: Most memory that `fit` may take for the pixels of its steps.
MOST_BYTES = 4e9

inr_app = typer.Typer(help="Images as networks: fit them, edit their weights, look at them.")
inr_app.command("gallery")(make_gallery)


@inr_app.command("fit")
def fit_image(
    image: Annotated[
        Path, typer.Argument(help="A PNG or JPEG with 8 bits per channel, or chelsea, which ships.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The network: NAME.safetensors.")],
    grey: Annotated[
        bool | None, typer.Option("--grey/--colour", help="By default as the image is.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=2, max=4096, help="Side to bring it to; by default 28 for grey, 32 for colour."
        ),
    ] = None,
    width: Annotated[
        int, typer.Option(min=1, max=4096, help="Width of the two hidden layers.")
    ] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Most steps.")] = 1000,
    target: Annotated[float, typer.Option("--psnr", help="Stop at this many dB.")] = 40.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the initial weights.")] = 0,
) -> None:
    """Fit a network to an image: its weights are the image then.

    It is fitted between the pixels as well, so that it can be rendered at any size.
    """
    import torch

    from gmn_opt.inr import (
        FitConfig,
        SirenConfig,
        fit_batch,
        psnr,
        render,
        save_inr,
        supersampled,
        unstack,
    )
    from gmn_opt.inr.fitting import as_targets

    check_out(out, ".safetensors")
    if math.isnan(target):
        fail(f"--psnr takes a number such as 40, received {target}")
    photo, name = _photo(image, grey, size, steps)
    side = photo.pixels.shape[0]
    count = photo.pixels.shape[-1]
    config = SirenConfig(2, count, (width, width))
    pixels = as_targets(photo.pixels.unsqueeze(0), config)
    fit = FitConfig(steps=steps, target_psnr=target, pixels=side * side)
    with Console(stderr=True).status("Fitting"), enough_memory("lower --size or --width"):
        found = fit_batch(supersampled(pixels), config, fit, seed=seed)
        with torch.no_grad():
            shown = render(config.build(), side, found.params)
    inr = unstack(config.build(), found.params, 0)
    reached = float(psnr(shown, pixels, config.value_range))
    about = {"size": [side, side], "psnr": round(reached, 2), "source": name}
    try:
        save_inr(out, inr, about)
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    parameters = sum(p.numel() for p in inr.parameters())
    typer.echo(
        f"{out}: SIREN 2-{width}-{width}-{count}, {parameters:,} parameters, {reached:.1f} dB "
        f"after {int(found.steps[0])} steps in {found.seconds:.1f} s"
    )


def _photo(image: Path, grey: bool | None, size: int | None, steps: int) -> tuple[Photo, str]:
    """The image as it is fitted, and its file's name."""
    from gmn_opt.inr.photos import PhotoError, read_photo

    try:
        channels = None if grey is None else 1 if grey else 3
        file = image_file(image)
        plain = read_photo(file, channels=channels)
        side = size or SIDES[plain.pixels.shape[-1]]
        photo = read_photo(file, side, channels)
    except PhotoError as error:
        fail(str(error))
    draws = 8 * steps * side**2  # the pixels of every step are drawn in advance
    if draws > MOST_BYTES:
        fail(
            f"{steps} steps at {side}x{side} pixels would take {draws / 1e9:.1f} GB of memory, "
            f"more than {MOST_BYTES / 1e9:g}; lower --steps or --size"
        )
    say_changes(photo.changes, image)
    return photo, file.name


@inr_app.command("edit")
def edit_inr(
    network: Annotated[Path, typer.Argument(help="A network that `gmn-opt inr fit` wrote.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The edited one: NAME.safetensors.")],
    edit: Annotated[
        str | None, typer.Option("--edit", help="What to do: dilate, contrast, ...")
    ] = None,
    editor: Editor = None,
    strength: Strength = 1.0,
    omega: Omega = 30.0,
) -> None:
    """Edit the weights of a network; its image is not needed."""
    from gmn_opt.inr import save_inr

    check_out(out, ".safetensors")
    check_strength(strength)
    inr, about = load_network(network, omega)
    chosen, called = find_editor(edit, editor, inr.config.outputs)
    made_for = side_of(chosen)
    height, width = size_in(about) or (made_for, made_for)
    if (height, width) != (made_for, made_for):
        typer.echo(
            f"note: {called} was made for networks of {made_for}x{made_for} images, this one is of "
            f"{width}x{height}: the edit is as coarse as there",
            err=True,
        )
    started = time.perf_counter()
    try:
        done = chosen.edit(inr, strength)
    except ValueError as error:
        fail(f"{network}: {error}")
    seconds = time.perf_counter() - started
    if not all(bool(p.isfinite().all()) for p in done.parameters()):
        fail(f"{network} holds weights that are no finite numbers, or --strength is too large")
    before = about.get("edits")
    edits = before if isinstance(before, list) else []
    edits = [*edits, {"edit": chosen.config.edit, "strength": strength}]
    try:
        save_inr(out, done, {**about, "edits": edits})
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    typer.echo(
        f"{out}: {chosen.config.edit}, strength {strength:g}, by {called} in {seconds:.2f} s"
    )


@inr_app.command("render")
def render_inr(
    network: Annotated[Path, typer.Argument(help="A network, in safetensors.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The image: NAME.png.")],
    size: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="Side; by default that of its image.")
    ] = None,
    omega: Omega = 30.0,
) -> None:
    """Render a network to an image of any size."""
    import torch

    from gmn_opt.inr import render
    from gmn_opt.inr.gallery import levels
    from gmn_opt.inr.photos import PhotoError, check_name, write_photo

    check_out(out)
    try:
        check_name(out)
    except PhotoError as error:
        fail(str(error))
    inr, about = load_network(network, omega)
    if not is_for_images(inr.config):
        fail(
            f"{network} maps {inr.config.inputs} coordinates to {inr.config.outputs} values; an "
            "image takes 2 coordinates, and 1 or 3 values"
        )
    default = SIDES[inr.config.outputs]
    height, width = (size, size) if size else size_in(about) or (default, default)
    status = Console(stderr=True).status("Rendering")
    with status, torch.no_grad(), enough_memory("choose a smaller --size"):
        values = render(inr, (height, width))
    if not bool(values.isfinite().all()):
        fail(f"{network} gives values that are no finite numbers; its weights are damaged")
    try:
        write_photo(out, levels(values, inr.config.value_range))
    except PhotoError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    typer.echo(f"{out}: {width}x{height}")
