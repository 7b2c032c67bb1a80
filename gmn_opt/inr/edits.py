"""Reference edits of images: what a weight editor learns to do without seeing the result.

Pixels are values in [-1, 1], as INRs of the default range give them. OpenCV does the work; dilate
and contrast are those of Zhou et al. 2023 (NFN, arXiv 2302.14040, section 4) and of all that
compare to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gmn_opt.extras import lazy
from gmn_opt.inr import photo_edits

if TYPE_CHECKING:
    import cv2
else:
    cv2 = lazy("cv2", "inr")

Pixels = np.ndarray[Any, np.dtype[Any]]


def _dilate(image: Pixels) -> Pixels:
    """The brightest of the 3x3 neighbours, one iteration."""
    return np.asarray(cv2.dilate(image, np.ones((3, 3), np.uint8), iterations=1))


def _erode(image: Pixels) -> Pixels:
    """The darkest of the 3x3 neighbours, one iteration."""
    return np.asarray(cv2.erode(image, np.ones((3, 3), np.uint8), iterations=1))


def _contrast(image: Pixels) -> Pixels:
    """CLAHE (clip limit 1.0, 3x3 tiles) on the lightness of LAB."""
    clahe = cv2.createCLAHE(clipLimit=1.0, tileGridSize=(3, 3))
    colour = image if image.shape[-1] == 3 else np.repeat(image, 3, -1)
    lab = cv2.cvtColor(colour, cv2.COLOR_RGB2LAB)
    lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
    out = np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
    return out if image.shape[-1] == 3 else out[..., :1]


def _blur(image: Pixels) -> Pixels:
    """A Gaussian of standard deviation 1 pixel."""
    return np.asarray(cv2.GaussianBlur(image, (5, 5), 1.0))


def _sharpen(image: Pixels) -> Pixels:
    """Unsharp masking: the image and its difference from the blurred one."""
    return np.asarray(cv2.addWeighted(image, 2.0, cv2.GaussianBlur(image, (5, 5), 1.0), -1.0, 0))


def _invert(image: Pixels) -> Pixels:
    """The negative."""
    return np.asarray(cv2.bitwise_not(image))


def _neon(image: Pixels) -> Pixels:
    """Glowing outlines: the strength of the edges, brightened, with a soft halo."""
    gradient = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    halo = cv2.GaussianBlur(gradient, (7, 7), 1.5)
    return np.asarray(cv2.addWeighted(gradient, 1.0, halo, 0.8, 0))


@dataclass(frozen=True)
class Edit:
    """A reference edit of uint8 images ``[H, W, C]``.

    Attributes:
        name: What it is called.
        title: What it does.
        apply: The edit; returns uint8 of the same shape.
        noise: Most standard deviation, in levels, of the grain that photographs get before they
            are edited when an editor learns it.
        longer: How many times as many steps a photograph is to be fitted for it, where it enlarges
            what a fit leaves.
    """

    name: str
    title: str
    apply: Callable[[Pixels], Pixels]
    noise: float = 0.0
    longer: float = 1.0


EDITS = {
    name: Edit(name, (function.__doc__ or "").strip(), function)
    for name, function in {
        "dilate": _dilate,
        "erode": _erode,
        "contrast": _contrast,
        "blur": _blur,
        "sharpen": _sharpen,
        "invert": _invert,
        "neon": _neon,
    }.items()
}


_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
#: What the names of edits for photographs, that is for tiled INRs, begin with.
PHOTO = "photo-"


def register_edit(
    name: str, function: Callable[[Pixels], Pixels], *, noise: float = 0.0, longer: float = 1.0
) -> Edit:
    """Make an edit of your own known, so that editors can be trained for it.

    Args:
        name: Small letters, digits and hyphens; begin it with ``photo-`` for tiled INRs.
        function: From uint8 ``[H, W, C]`` to uint8 of the same shape. An editor of tiled INRs
            looks eight pixels far: an edit that looks farther is learned approximately.
        noise, longer: See `Edit`.

    Raises ValueError for another name, or one that is taken by another function.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"An edit's name is of small letters, digits and hyphens, not {name!r}.")
    if name in EDITS and EDITS[name].apply is not function:
        raise ValueError(f"There is an edit {name!r} already; choose another name.")
    title = (function.__doc__ or name).strip().splitlines()[0]
    EDITS[name] = Edit(name, title, function, noise, longer)
    return EDITS[name]


def find_edit(text: str, prefix: str = "") -> Edit:
    """The edit of a name, or ``package.module:function``, which is imported and registered.

    Args:
        text: A name, with or without ``prefix``, or where a function is.
        prefix: Of the name under which a function is registered.

    Raises ValueError when there is none, or the module cannot be imported.
    """
    if ":" not in text:
        for name in (f"{prefix}{text}", text):
            if name in EDITS and name.startswith(prefix):
                return EDITS[name]
        known = [n.removeprefix(prefix) for n in EDITS if n.startswith(prefix)]
        raise ValueError(
            f"There is no edit {text!r}; there are {', '.join(known)}. For one of your own, give "
            "package.module:function."
        )
    module, _, attribute = text.partition(":")
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"There is no function {text} to import: {error}.") from error
    if not callable(function):
        raise ValueError(f"{text} is no function.")
    return register_edit(prefix + attribute.lower().replace("_", "-").strip("-"), function)


for _function in (
    photo_edits.contrast, photo_edits.sharpen, photo_edits.denoise, photo_edits.warm,
    photo_edits.sketch, photo_edits.neon,
):  # fmt: skip
    register_edit(
        PHOTO + _function.__name__,
        _function,
        noise=30.0 * (_function is photo_edits.denoise),
        # sketch enlarges differences where it is dark
        longer=2.5 if _function in (photo_edits.sharpen, photo_edits.sketch) else 1.0,
    )


def edited(images: Tensor, name: str) -> Tensor:
    """Reference edit of images.

    Args:
        images: Floating point in [-1, 1] ``[..., H, W, C]`` with 1 or 3 channels (RGB); rounded to
            256 levels first, which is what the published protocol edits.
        name: One of `EDITS`.

    Returns:
        The same shape and dtype, in [-1, 1].

    Raises ValueError for an unknown edit, or another number of channels.
    """
    if name not in EDITS:
        raise ValueError(f"There is no edit {name!r}; there are {', '.join(EDITS)}.")
    if images.dim() < 3 or images.shape[-1] not in (1, 3) or not images.is_floating_point():
        raise ValueError(
            "Edits take floating-point images [..., H, W, 1] or [..., H, W, 3] in [-1, 1], "
            f"received {images.dtype} {list(images.shape)}."
        )
    levels = ((images.detach().cpu().double() + 1) * 127.5).round().clamp(0, 255)
    flat = levels.to(torch.uint8).reshape(-1, *images.shape[-3:]).numpy()
    done = [
        # OpenCV drops a single channel
        EDITS[name].apply(np.ascontiguousarray(image)).reshape(image.shape)
        for image in flat
    ]
    if not done:
        return images.clone()
    out = torch.from_numpy(np.stack(done)).reshape(images.shape)
    return out.to(images) / 127.5 - 1
