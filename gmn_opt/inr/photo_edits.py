"""Reference edits for photographs: what editors of tiled INRs learn to do.

All look at most eight pixels far, so that a tile and the band around it tell what is to be done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gmn_opt.extras import lazy

if TYPE_CHECKING:
    import cv2
else:
    cv2 = lazy("cv2", "inr")

Pixels = np.ndarray[Any, np.dtype[Any]]


def _levels(values: Pixels) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _grey(image: Pixels) -> Pixels:
    """Lightness, float32 ``[H, W]`` from 0 to 1."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[-1] == 3 else image[..., 0]
    return np.asarray(grey.astype(np.float32) / 255)


def contrast(image: Pixels) -> Pixels:
    """Deeper shadows, brighter lights, clearer detail, richer colour."""
    values = image.astype(np.float32) / 255
    grey = _grey(image)
    detail = grey + 0.4 * (grey - cv2.GaussianBlur(grey, (15, 15), 2.5))
    x = np.clip(detail, 0, 1)
    curve = x + 0.22 * np.sin(2 * np.pi * (x - 0.5)) / 2
    mixed = curve[..., None] + 1.15 * (values - grey[..., None])
    return _levels(255 * mixed)


def sharpen(image: Pixels) -> Pixels:
    """Unsharp masking: the image and its difference from a blurred one."""
    values = image.astype(np.float32).reshape(image.shape)
    blurred = cv2.GaussianBlur(values, (9, 9), 1.2).reshape(image.shape)
    return _levels(values + 1.2 * (values - blurred))


def denoise(image: Pixels) -> Pixels:
    """Two bilateral filters: grain goes, edges stay."""
    once = cv2.bilateralFilter(image, 9, 70, 2.5)
    return np.asarray(cv2.bilateralFilter(once, 7, 35, 2.0)).reshape(image.shape)


def warm(image: Pixels) -> Pixels:
    """A colour grade: golden lights, soft blue-green shadows, lifted blacks; greys only fade."""
    values = image.astype(np.float32) / 255
    if image.shape[-1] == 1:
        return _levels(255 * (0.07 + 0.85 * values))
    light = _grey(image)[..., None]
    shadows, lights = (
        np.array([-0.02, 0.015, 0.035], np.float32),
        np.array([0.10, 0.03, -0.10], np.float32),
    )
    toned = values + (1 - light) ** 2 * shadows + light * lights
    return _levels(255 * (0.03 + 0.96 * toned))


def sketch(image: Pixels) -> Pixels:
    """A pencil drawing: dark lines where the image changes, white where it does not."""
    grey = _grey(image)
    around = cv2.GaussianBlur(grey, (15, 15), 2.5)
    paper = np.clip((grey + 0.2) / (around + 0.2), 0, 1)
    drawn = paper**3 * (0.86 + 0.14 * around)
    return _levels(255 * np.repeat(drawn[..., None], image.shape[-1], -1))


def neon(image: Pixels) -> Pixels:
    """Night, with outlines that glow in the colours of the image."""
    values = image.astype(np.float32) / 255
    soft = cv2.GaussianBlur(_grey(image), (7, 7), 1.0)
    slope = np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    line = np.tanh(1.8 * slope) ** 1.3
    base = cv2.GaussianBlur(values, (9, 9), 1.5).reshape(image.shape)
    top = base.max(-1, keepdims=True)
    hue = np.clip(base / (top + 0.05), 0, 1) ** 2.0
    lit = line[..., None] * (0.25 + 0.75 * hue)
    glow = cv2.GaussianBlur(lit, (11, 11), 2.0).reshape(image.shape)
    return _levels(255 * (1.15 * lit + 0.7 * glow + 0.12 * values**1.5 + np.float32(0.01)))
