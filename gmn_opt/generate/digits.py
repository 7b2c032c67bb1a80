"""Networks that are handwritten digits, from the generator that ships."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmn_opt.extras import needs
from gmn_opt.generate.generator import Generator
from gmn_opt.inr import Inr, Params, config_from_dict, render, save_inr, unstack
from gmn_opt.inr.gallery import levels
from gmn_opt.weights import WeightsError
from gmn_opt.weights.atomic import write_atomically
from gmn_opt.weights.shipped import path_of

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "generate-digits"
STEPS = 10
#: Of the noise; at 1, digits are more varied, and more of them are hard to read.
TEMPERATURE = 0.8


def load_digits(path: str | os.PathLike[str] | None = None) -> Generator:
    """The generator of digits that ships, or one in a file.

    Raises WeightsError when there is none, or it makes no INRs.
    """
    found = Generator.load(path_of(NAME) if path is None else path)
    if found.field.siren is None:
        raise WeightsError(f"{path} generates networks that are no INRs; it cannot draw digits.")
    return found


def template(generator: Generator) -> Inr:
    """An INR such as it makes; its weights mean nothing."""
    siren = generator.field.siren
    assert siren is not None
    with torch.random.fork_rng(devices=[]):
        return config_from_dict(siren.to_dict()).build(torch.Generator().manual_seed(0))


def pictures(generator: Generator, params: Params, size: int) -> Tensor:
    """uint8 ``[n, size, size]``, white on black."""
    inr = template(generator)
    return levels(render(inr, size, params)[..., 0], inr.config.value_range)


def sheet(images: Tensor, columns: int) -> Tensor:
    """uint8 ``[n, H, W]`` side by side in rows, ``[rows * H, columns * W]``; black where none."""
    n, h, w = images.shape
    rows = -(-n // columns)
    full = torch.cat([images, images.new_zeros(rows * columns - n, h, w)])
    return full.view(rows, columns, h, w).permute(0, 2, 1, 3).reshape(rows * h, columns * w)


def write_digits(
    generator: Generator, params: Params, labels: Tensor, out: Path, size: int = 56
) -> list[Path]:
    """``sheet.png``, and per network a PNG and a safetensors file that `load_inr` reads.

    Raises ValueError for a size below 28, OSError when a file cannot be written.
    """
    if size < 28:
        raise ValueError(f"Digits are drawn at 28 pixels at least, received {size}.")
    images = pictures(generator, params, size)
    inr = template(generator)
    written = []
    for i, label in enumerate(labels.tolist()):
        path = out / f"digit-{label}-{i:03d}"
        write_png(images[i], path.with_suffix(".png"))
        about = {"size": [28, 28], "class": label, "generated": True}
        save_inr(path.with_suffix(".safetensors"), unstack(inr, params, i), about)
        written.append(path.with_suffix(".png"))
    columns = min(len(images), max(4, round(len(images) ** 0.5)))
    write_png(sheet(images, columns), out / "sheet.png")
    return [out / "sheet.png", *written]


def write_png(pixels: Tensor, path: Path) -> None:
    """A grey picture uint8 ``[H, W]``, whole or not at all."""
    picture = _picture(pixels)
    write_atomically(path, lambda p: picture.save(p, format="png"))


def _picture(pixels: Tensor) -> Image:
    with needs("inr"):
        from PIL import Image

    return Image.fromarray(pixels.cpu().numpy())


__all__ = ["NAME", "STEPS", "TEMPERATURE", "load_digits", "pictures", "sheet", "write_digits"]
