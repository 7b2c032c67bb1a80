"""Pieces of the photographs that come with scikit-image and scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gmn_opt.meta import Split
from tasks.data.extras import require
from tasks.data.splits import SPLITS
from tasks.inr_data import photograph

#: Which photographs are in which set. Data sets of INRs have splits of their own.
PHOTO_SETS: dict[str, tuple[str, ...]] = {
    "photos": ("astronaut", "china", "coffee", "flower"),
    "grey_photos": ("camera", "brick", "grass", "gravel", "moon"),
    "photos_valid": ("rocket",),
    "photos_held_out": ("chelsea", "retina"),
}
#: The photographs that make the classes of ``texture_patches``.
TEXTURES = (*PHOTO_SETS["photos"], *PHOTO_SETS["grey_photos"])
#: Pieces of a set; networks beyond that many share them.
PIECES = 60
_PATCH = 28
#: Standard deviation of the pixels, from 0 to 1, below which a patch is left out.
_FLAT = 0.01
#: The band of a photograph, from top to bottom, that each split's patches are cut from, and how
#: many per class.
_BANDS: dict[Split, tuple[float, float, int]] = {
    "inner_train": (0.0, 0.7, 600),
    "inner_valid": (0.7, 0.8, 80),
    "outer_valid": (0.8, 0.9, 80),
    "test": (0.9, 1.0, 80),
}


def _load(name: str) -> Tensor:
    """Float ``[C, H, W]`` from 0 to 1."""
    require("skimage", "sklearn")
    pixels = photograph(name).float() / 255
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)


@cache
def photo_pieces(name: str, size: int) -> Tensor:
    """``PIECES`` squares of random places and sides, shrunk: ``[PIECES, C, size, size]``.

    Each has mean 0 and standard deviation 1 (or less, if it is almost of one colour). Raises
    ValueError for an unknown set.
    """
    if name not in PHOTO_SETS:
        raise ValueError(f"Unknown photographs {name!r}; choose one of {', '.join(PHOTO_SETS)}.")
    photos = [_load(n) for n in PHOTO_SETS[name]]
    draw = np.random.default_rng([PIECES, len(photos)])
    pieces = []
    for i in range(PIECES):
        photo = photos[i % len(photos)]
        height, width = photo.shape[1:]
        side = round(float(np.exp(draw.uniform(np.log(max(size, 48)), np.log(min(height, width))))))
        top, left = draw.integers(height - side + 1), draw.integers(width - side + 1)
        cut = photo[None, :, top : top + side, left : left + side]
        piece = F.interpolate(cut, size=(size, size), mode="area")[0]
        pieces.append((piece - piece.mean()) / piece.std().clamp_min(0.05))
    return torch.stack(pieces)


def _distinct(band: Tensor, count: int, draw: np.random.Generator) -> list[Tensor]:
    """Patches at random places that show something: a black sky is the same everywhere."""
    patches: list[Tensor] = []
    while len(patches) < count:
        row, column = (int(draw.integers(side - _PATCH + 1)) for side in band.shape)
        patch = band[row : row + _PATCH, column : column + _PATCH]
        if patch.std() > _FLAT:
            patches.append(patch)
    return patches


@cache
def texture_patches() -> tuple[dict[Split, Tensor], dict[Split, Tensor]]:
    """Grey 28x28 patches and the number of the photograph that each is from.

    Returns:
        uint8 ``[N, 28, 28]`` and labels ``[N]`` per split; bands of the photographs are apart, and
        patches of one colour are left out.
    """
    greys = [_load(n).mean(0) for n in TEXTURES]
    images: dict[Split, Tensor] = {}
    labels: dict[Split, Tensor] = {}
    for split in SPLITS:
        first, last, count = _BANDS[split]
        draw = np.random.default_rng([7, SPLITS.index(split)])
        patches = []
        for grey in greys:
            top, bottom = (round(edge * grey.shape[0]) for edge in (first, last))
            patches += _distinct(grey[top:bottom], count, draw)
        order = torch.from_numpy(draw.permutation(len(patches)))
        images[split] = (torch.stack(patches)[order] * 255).round().to(torch.uint8)
        labels[split] = torch.arange(len(greys)).repeat_interleave(count)[order]
    return images, labels
