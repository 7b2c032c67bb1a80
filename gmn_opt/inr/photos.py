"""Photographs from files, brought to the size and the channels of an editor, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gmn_opt.extras import lazy
from gmn_opt.weights.atomic import write_atomically

if TYPE_CHECKING:
    from PIL import Image, ImageOps
else:
    Image = lazy("PIL.Image", "inr")
    ImageOps = lazy("PIL.ImageOps", "inr")

#: Pillow's modes that are 8 bits per channel without transparency.
_PLAIN = {"L": 1, "RGB": 3}
#: EXIF tag by which cameras say how a photograph is to be turned.
_ORIENTATION = 0x0112
#: What is read; Pillow knows many more formats, most of them rare and little tested.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
#: Most pixels of an image that is decoded.
MOST_PIXELS = 100_000_000
#: Largest sides of formats that have one.
_LARGEST_SIDES = {"WEBP": 16383, "JPEG": 65535}
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}


class PhotoError(ValueError):
    """An image file cannot be read, or not be brought to what is needed."""


@dataclass(frozen=True)
class Photo:
    """An image ``[H, W, C]`` in uint8, and what was done to it on the way."""

    pixels: Tensor
    changes: tuple[str, ...]


def read_photo(
    path: Path, size: int | None = None, channels: int | None = None, longest: int | None = None
) -> Photo:
    """An 8-bit grey or RGB image.

    Args:
        path: The file: PNG, JPEG, WebP or BMP; of an animation, the first frame.
        size: Side of the square wanted: the middle is cut out, and brought to this side by area
            averaging (or bicubic interpolation where it is smaller). None keeps the image.
        channels: 1 for grey, 3 for colour; None keeps what there is.
        longest: Without a size, the longer side that a larger image is reduced to as a whole.

    Raises:
        PhotoError: No such file, a folder, no image, another format, a cut-off one, too many
            pixels, 16 bits, transparency, one pixel.
    """
    image, changes = _opened(path)
    if image.mode not in _PLAIN and image.mode != "1":
        raise PhotoError(_unsuited(path, image.mode))
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
    elif size is None and longest is not None and max(image.size) > longest:
        share = longest / max(image.size)
        sides = [max(2, round(n * share)) for n in image.size]
        changes.append(f"{image.width}x{image.height} to {sides[0]}x{sides[1]}")
        image = image.resize((sides[0], sides[1]), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(image))
    return Photo(pixels.reshape(image.height, image.width, -1), tuple(changes))


def _opened(path: Path) -> tuple[Image.Image, list[str]]:
    """The decoded image, and what was left out; its size is checked before it is decoded."""
    if path.is_dir():
        raise PhotoError(f"{path} is a folder; give an image file")
    if not path.is_file():
        raise PhotoError(f"there is no file {path}")
    try:
        with Image.open(path, formats=_FORMATS) as file:
            if file.width * file.height > MOST_PIXELS:
                raise PhotoError(
                    f"{path} has {file.width}x{file.height} pixels, more than "
                    f"{MOST_PIXELS:,}; reduce it first"
                )
            file.load()
            image: Image.Image = file.copy()
            frames = getattr(file, "n_frames", 1)
    except PhotoError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise PhotoError(
            f"{path} is no image, or a damaged one ({error}); give a whole PNG, JPEG, WebP or BMP"
        ) from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{path} is too large: {error}") from error
    return image, [f"the first of {frames} frames taken"] if frames > 1 else []


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


def check_size(path: Path, height: int, width: int) -> None:
    """Raise PhotoError for an image with a side that the format of this name cannot hold."""
    kind = _SUFFIXES[path.suffix.lower()]
    most = _LARGEST_SIDES.get(kind)
    if most is not None and max(height, width) > most:
        raise PhotoError(
            f"cannot write {path}: {kind} holds sides up to {most} pixels, not {width}x{height}; "
            "choose a smaller --size, or write a PNG"
        )
