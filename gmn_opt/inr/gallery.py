"""Pictures of pictures: a grid with a row per image and a column per version of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gmn_opt.extras import needs
from gmn_opt.figures import DPI
from gmn_opt.weights.atomic import write_atomically

#: Of JPEG.
_QUALITY = 85


def levels(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Images in ``value_range`` as uint8, what lies outside cut off."""
    low, high = value_range
    return (((images - low) / (high - low)).clamp(0, 1) * 255).round().to(torch.uint8)


def draw_gallery(columns: Mapping[str, Tensor], path: Path, title: str = "") -> None:
    """Draw a grid to a .png, .jpg, .svg or .pdf file, whole or not at all.

    Args:
        columns: Heading to images in [-1, 1], ``[N, H, W, 1]`` or ``[N, H, W, 3]``, the same N
            for all.
        path: The file.
        title: Written above.

    Raises ValueError for no images or different N, OSError when the file cannot be written.
    """
    counts = {len(images) for images in columns.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            "A gallery needs columns of the same number of images, at least one; received "
            f"{ {name: list(images.shape) for name, images in columns.items()} }."
        )
    with needs("inr"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    rows = counts.pop()
    height, width = next(iter(columns.values())).shape[1:3]
    # large images at about their own size
    inches = max(1.2, max(height, width) / DPI)
    high, wide = (max(0.3 * inches, inches * n / max(height, width)) for n in (height, width))
    size = ((wide + 0.05) * len(columns), high * rows + 0.3 + 0.3 * bool(title))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for c, (name, images) in enumerate(columns.items()):
        shown = levels(images.detach().cpu())
        for r in range(rows):
            axis = axes[r][c]
            axis.set_axis_off()
            image = shown[r].expand(-1, -1, 3) if shown.shape[-1] == 1 else shown[r]
            axis.imshow(image.numpy(), interpolation="nearest")
        axes[0][c].set_title(name, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    suffix = path.suffix.removeprefix(".").lower() or "png"
    more = {"quality": _QUALITY} if suffix == "jpg" else None
    write_atomically(path, lambda p: figure.savefig(p, dpi=DPI, format=suffix, pil_kwargs=more))


def error_image(images: Tensor, reference: Tensor) -> Tensor:
    """Absolute differences in [-1, 1]: black where two images are the same."""
    return ((images - reference).abs() - 1).clamp(-1, 1)
