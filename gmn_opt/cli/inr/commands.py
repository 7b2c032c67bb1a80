"""`gmn-opt inr fit`, `edit` and `render`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gmn_opt.cli.errors import fail
from gmn_opt.cli.frame import examples
from gmn_opt.cli.inr.gallery import make_gallery
from gmn_opt.cli.inr.shared import (
    LARGEST,
    NETWORKS,
    ONE_NETWORK,
    PICTURES,
    SIDES,
    Editor,
    Family,
    Force,
    Omega,
    Strength,
    check_family,
    check_image,
    check_network,
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
from gmn_opt.cli.inr.tiled import (
    LONGEST,
    TileOptions,
    described,
    edit_photograph,
    fit_photograph,
    load_photograph_network,
    network_of,
    save_photograph,
    summary,
)
from gmn_opt.cli.inr.train_editor import train_editor

if TYPE_CHECKING:
    from torch import Tensor

    from gmn_opt.inr.photos import Photo

#: Most memory that `fit` may take for the pixels of its steps.
MOST_BYTES = 4e9

inr_app = typer.Typer(help="Images as networks: fit them, edit their weights, look at them.")
inr_app.command(
    "gallery",
    epilog=examples("gmn-opt inr gallery --data mnist --count 2 --edit dilate -o gallery.png"),
)(make_gallery)
inr_app.command(
    "train-editor",
    epilog=examples("gmn-opt inr train-editor sharpen chelsea -o sharpen.safetensors"),
)(train_editor)
_FIT = "gmn-opt inr fit chelsea -o cat.safetensors --size 32"
_EDIT = "gmn-opt inr edit cat.safetensors --edit neon -o neon.safetensors"


@inr_app.command("fit", epilog=examples(_FIT))
def fit_image(
    image: Annotated[
        Path,
        typer.Argument(help="A PNG, JPEG, WebP or BMP with 8 bits, or chelsea, which ships."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The network: NAME.safetensors.")],
    grey: Annotated[
        bool | None, typer.Option("--grey/--colour", help="By default as the image is.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=4096,
            help="Up to 32: side of the middle square, as one network. Beyond: the longer side, "
            "as tiles. By default as the image is, 1024 at most.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Of the hidden layers: 48 for tiles, 32 for one and for grids."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps: 400 for tiles, 1000 for one.")
    ] = None,
    target: Annotated[
        float | None, typer.Option("--psnr", help="Stop at this many dB: 40 for one network.")
    ] = None,
    family: Family = "siren",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the initial weights.")] = 0,
    force: Force = False,
) -> None:
    """Fit networks to an image: their weights are the image then.

    An image of up to 32 pixels is one network, a larger one a grid of overlapping tiles. Either can
    be rendered at any size. A fit of tiles that was stopped goes on where it was.
    """
    check_out(out, ".safetensors", force=force)
    check_family(family)
    if target is not None and math.isnan(target):
        fail(f"--psnr takes a number such as 40, received {target}")
    check_image(image)
    photo, name = _photo(image, grey, size)
    options = TileOptions(width, steps, target, seed, family)
    if max(photo.pixels.shape[:2]) > ONE_NETWORK:
        tiled = fit_photograph(photo.pixels, out, name, options)
        save_photograph(out, tiled)
        typer.echo(f"{out}: {summary(tiled)}")
    else:
        _fit_one(photo.pixels, out, name, options)


def _fit_one(pixels: Tensor, out: Path, name: str, options: TileOptions) -> None:
    """Fit and save one network for a small image, between its pixels as well."""
    import torch

    from gmn_opt.inr import (
        FitConfig,
        fit_batch,
        psnr,
        render,
        save_inr,
        supersampled,
        unstack,
    )
    from gmn_opt.inr.fitting import as_targets
    from gmn_opt.inr.tiled_fitting import tile_fit

    side, count = pixels.shape[0], pixels.shape[-1]
    steps = options.steps or 1000
    _check_memory(steps, side)
    config = network_of(replace(options, width=options.width or 32), count)
    targets = as_targets(pixels.unsqueeze(0), config)
    target = 40.0 if options.target is None else options.target
    lr = tile_fit(config).lr
    fit = FitConfig(steps=steps, lr=lr, target_psnr=target, pixels=side * side)
    with Console(stderr=True).status("Fitting"), enough_memory("lower --size or --width"):
        found = fit_batch(supersampled(targets), config, fit, seed=options.seed)
        with torch.no_grad():
            shown = render(config.build(), side, found.params)
    inr = unstack(config.build(), found.params, 0)
    reached = float(psnr(shown, targets, config.value_range))
    about = {"size": [side, side], "psnr": round(reached, 2), "source": name}
    try:
        save_inr(out, inr, about)
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    parameters = sum(p.numel() for p in inr.parameters())
    typer.echo(
        f"{out}: {described(config)}, {parameters:,} parameters, {reached:.1f} dB "
        f"after {int(found.steps[0])} steps in {found.seconds:.1f} s"
    )


def _photo(image: Path, grey: bool | None, size: int | None) -> tuple[Photo, str]:
    """The image as it is fitted, and its file's name."""
    from gmn_opt.inr.photos import PhotoError, read_photo

    try:
        channels = None if grey is None else 1 if grey else 3
        file = image_file(image)
        photo = read_photo(file, channels=channels, longest=size or LONGEST)
        small = max(photo.pixels.shape[:2]) <= ONE_NETWORK
        if small or (size is not None and size <= ONE_NETWORK):
            photo = read_photo(file, size or SIDES[photo.pixels.shape[-1]], channels)
    except PhotoError as error:
        fail(str(error))
    say_changes(photo.changes, image)
    return photo, file.name


def _check_memory(steps: int, side: int) -> None:
    """Refuse what would not fit: the pixels of every step are drawn in advance."""
    draws = 8 * steps * side**2
    if draws > MOST_BYTES:
        fail(
            f"{steps} steps at {side}x{side} pixels would take {draws / 1e9:.1f} GB of memory, "
            f"more than {MOST_BYTES / 1e9:g}; lower --steps or --size"
        )


@inr_app.command("edit", epilog=examples(_FIT + " --force", _EDIT))
def edit_inr(
    network: Annotated[
        Path, typer.Argument(help="A network that `gmn-opt inr fit` wrote, or a photograph.")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="The edited one: NAME.safetensors, or NAME.png of it."),
    ],
    edit: Annotated[
        str | None, typer.Option("--edit", help="What to do: warm, sketch, dilate, ...")
    ] = None,
    editor: Editor = None,
    strength: Strength = 1.0,
    omega: Omega = 30.0,
    force: Force = False,
) -> None:
    """Edit the weights of a network; its image is not needed.

    A photograph becomes tiles first, as by `gmn-opt inr fit`.
    """
    check_out(out, *NETWORKS, *PICTURES, force=force)
    check_strength(strength)
    # names without a suffix are those of bundled photographs
    suffix = network.suffix.lower()
    is_picture = suffix in PICTURES or not (suffix or network.exists())
    (check_image if is_picture else check_network)(network)
    if is_picture or _is_tiled(network):
        edit_photograph(network, out, edit, editor, strength)
        return
    if out.suffix.lower() not in NETWORKS:
        fail(f"cannot write {out}: the name must end in .safetensors; render that then")
    _edit_one(network, out, edit, editor, strength, omega)


def _is_tiled(path: Path) -> bool:
    from gmn_opt.inr.tiled import is_tiled

    return is_tiled(path)


def _edit_one(
    network: Path, out: Path, edit: str | None, editor: Path | None, strength: float, omega: float
) -> None:
    """Edit and save one network of a small image."""
    from gmn_opt.inr import save_inr

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


@inr_app.command(
    "render",
    epilog=examples(_FIT + " --force", "gmn-opt inr render cat.safetensors -o cat.png --size 256"),
)
def render_inr(
    network: Annotated[Path, typer.Argument(help="A network, in safetensors.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The image: NAME.png.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST, help="Longer side; by default that of its image."),
    ] = None,
    omega: Omega = 30.0,
    force: Force = False,
) -> None:
    """Render a network to an image of any size."""
    check_out(out, force=force)
    check_network(network)
    import torch

    from gmn_opt.inr import render
    from gmn_opt.inr.gallery import levels
    from gmn_opt.inr.photos import PhotoError, check_name, check_size, write_photo
    from gmn_opt.inr.tiled import is_tiled

    try:
        check_name(out)
        draw: Callable[[], Tensor]
        if is_tiled(network):
            tiled = load_photograph_network(network)
            config, sides = tiled.config, _sides(tiled.size, size)
            draw = partial(tiled.render, sides)
        else:
            inr, about = load_network(network, omega)
            config = inr.config
            default = SIDES.get(config.outputs, SIDES[1])
            sides = _sides(size_in(about) or (default, default), size)
            draw = partial(render, inr, sides)
        if not is_for_images(config):
            fail(
                f"{network} maps {config.inputs} coordinates to {config.outputs} values; an "
                "image takes 2 coordinates, and 1 or 3 values"
            )
        check_size(out, *sides)
        status = Console(stderr=True).status("Rendering")
        with status, torch.no_grad(), enough_memory("choose a smaller --size"):
            values = draw()
        if not bool(values.isfinite().all()):
            fail(f"{network} gives values that are no finite numbers; its weights are damaged")
        write_photo(out, levels(values, config.value_range))
    except PhotoError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    typer.echo(f"{out}: {sides[1]}x{sides[0]}")


def _sides(own: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """Height and width of a rendering, in the proportions of the image."""
    if longest is None:
        return own
    height, width = (max(1, round(n * longest / max(own))) for n in own)
    return height, width
