"""Photographs from files, brought to the size and the channels of an editor, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gmn_opt.weights.atomic import write_atomically

#: Pillow's modes that are 8 bits per channel without transparency.
_PLAIN = {"L": 1, "RGB": 3}
#: EXIF tag by which cameras say how a photograph is to be turned.
_ORIENTATION = 0x0112
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}


class PhotoError(ValueError):
    """An image file cannot be read, or not be brought to what is needed."""


@dataclass(frozen=True)
class Photo:
    """An image ``[H, W, C]`` in uint8, and what was done to it on the way."""

    pixels: Tensor
    changes: tuple[str, ...]


def read_photo(path: Path, size: int | None = None, channels: int | None = None) -> Photo:
    """An 8-bit grey or RGB image.

    Args:
        path: The file.
        size: Side of the square wanted: the middle is cut out, and brought to this side by area
            averaging (or bicubic interpolation where it is smaller). None keeps the image.
        channels: 1 for grey, 3 for colour; None keeps what there is.

    Raises:
        PhotoError: No such file, a folder, no image, a cut-off one, 16 bits, transparency, one
            pixel.
    """
    if path.is_dir():
        raise PhotoError(f"{path} is a folder; give an image file")
    if not path.is_file():
        raise PhotoError(f"there is no file {path}")
    try:
        with Image.open(path) as file:
            file.load()
            image: Image.Image = file.copy()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise PhotoError(
            f"{path} is no image, or a damaged one ({error}); give a whole PNG or JPEG"
        ) from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{path} is too large: {error}") from error
    if image.mode not in _PLAIN and image.mode != "1":
        raise PhotoError(_unsuited(path, image.mode))
    changes = []
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
        changes.append("turned upright as its EXIF data say")
    if image.mode == "1":
        image = image.convert("L")
        changes.append("black and white to grey")
    if min(image.size) < 2:
        raise PhotoError(
            f"{path} has {image.width}x{image.height} pixels; an INR needs at least 2x2"
        )
    if channels is not None and channels != _PLAIN[image.mode]:
        changes.append("colour to grey" if channels == 1 else "grey to colour")
        image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size, size):
        side = min(image.size)
        if image.width != image.height:
            changes.append(f"{image.width}x{image.height} to its middle, {side}x{side}")
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        if side != size:
            changes.append(f"{side}x{side} to {size}x{size}")
            how = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
            image = image.resize((size, size), how)
    pixels = torch.from_numpy(np.array(image))
    return Photo(pixels.reshape(image.height, image.width, -1), tuple(changes))


def tiles(pixels: Tensor, size: int) -> Tensor:
    """Pieces of a square image: the whole, its quarters and its sixteenths, row by row.

    Args:
        pixels: uint8 ``[S, S, C]``.
        size: Side that all are brought to, as by `read_photo`.

    Returns:
        uint8 ``[21, size, size, C]``.
    """
    image = Image.fromarray(pixels[..., 0].numpy() if pixels.shape[-1] == 1 else pixels.numpy())
    found = []
    for parts in (1, 2, 4):
        side = image.width / parts
        how = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
        for top in range(parts):
            for left in range(parts):
                box = (left * side, top * side, (left + 1) * side, (top + 1) * side)
                found.append(np.array(image.resize((size, size), how, box)))
    return torch.from_numpy(np.stack(found)).reshape(len(found), size, size, -1)


def _unsuited(path: Path, mode: str) -> str:
    if mode.startswith("I;16") or mode in ("I", "F"):
        what, do = "more than 8 bits per pixel", "convert it to 8 bits"
    elif mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        what, do = "transparency", "put it on a background: save it without an alpha channel"
    elif mode == "P":
        what, do = "a palette", "save it as RGB"
    else:
        what, do = f"the colour mode {mode}", "save it as RGB"
    return f"{path} has {what}, which an INR of grey or colour values cannot hold; {do}"


def write_photo(path: Path, pixels: Tensor) -> None:
    """Write uint8 ``[H, W, 1]`` or ``[H, W, 3]``, whole or not at all.

    Raises PhotoError for a name of no known format, or an image that is too large for the format,
    OSError when it cannot be written.
    """
    check_name(path)
    array = pixels.cpu().numpy()
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    try:
        write_atomically(path, lambda p: image.save(p, format=_SUFFIXES[path.suffix.lower()]))
    except ValueError as error:
        raise PhotoError(f"cannot write {path}: {error}") from error


def check_name(path: Path) -> None:
    """Raise PhotoError unless the name says an image format that `write_photo` writes."""
    if path.suffix.lower() not in _SUFFIXES:
        raise PhotoError(f"cannot write {path}: the name must end in {', '.join(_SUFFIXES)}")
