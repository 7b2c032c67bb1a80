"""Reference edits of images: what a weight editor learns to do without seeing the result.

Pixels are values in [-1, 1], as INRs of the default range give them. OpenCV does the work; dilate
and contrast are those of Zhou et al. 2023 (NFN, arXiv 2302.14040, section 4) and of all that
compare to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

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
    """A reference edit of uint8 images ``[H, W, C]``; ``title`` says what it does."""

    name: str
    title: str
    apply: Callable[[Pixels], Pixels]


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
