"""Real images that data sets of INRs are rebuilt from, with their splits.

``mnist`` and ``fashion_mnist``: training and validation images from the start and from behind it
of the official training images, test images from the official test images. The bundled subsets
serve as long as they suffice, the full data sets beyond. ``photos``: 32x32 colour patches of
photographs that come with scikit-image, scikit-learn and matplotlib, split by photograph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gmn_opt.data import load_bundled, load_full

NAMES = ("mnist", "fashion_mnist", "photos")
SPLITS = ("train", "valid", "test")
#: Training, validation and test images of a preset.
COUNTS = {
    "smoke": (24, 8, 8),
    "cpu": (6000, 1000, 1000),
    "gpu": (45_000, 5_000, 10_000),
}
#: Which photographs are in which split; no photograph is in two.
PHOTOS = {
    "train": ("astronaut", "china", "coffee", "flower", "immunohistochemistry", "retina"),
    "valid": ("rocket",),
    "test": ("chelsea", "grace_hopper"),
}
#: What their packages say about them.
LICENCES = {
    "astronaut": "NASA, public domain",
    "chelsea": "Stefan van der Walt, CC0",
    "china": "danielbuechele, CC BY 2.0",
    "coffee": "Rachel Michetti, CC0",
    "flower": "vultilion, CC BY 2.0",
    "grace_hopper": "US Navy, public domain",
    "immunohistochemistry": "CMMI, no known copyright restrictions",
    "retina": "Mikael Häggström, CC0",
    "rocket": "SpaceX, public domain",
}
PATCH = 32
#: Sides of the squares that patches are shrunk from, drawn log-uniformly.
_SIDES = (32, 160)
#: Least standard deviation of a patch's brightness, of 255 levels.
_LEAST_SPREAD = 16.0


@dataclass(frozen=True)
class SourceImages:
    """uint8 images ``[N, H, W]`` or ``[N, H, W, 3]``, labels ``[N]`` if any, where from."""

    images: Tensor
    labels: Tensor | None
    origin: str


def load_split(name: str, split: str, counts: tuple[int, int, int], seed: int = 0) -> SourceImages:
    """The images of one split.

    Args:
        name: One of `NAMES`.
        split: One of `SPLITS`.
        counts: Images in training, validation and test.
        seed: Of the places of patches; the other data sets have a fixed order.

    Raises ValueError for another name or split, or more images than there are.
    """
    if name not in NAMES or split not in SPLITS:
        raise ValueError(
            f"No images {name!r}, {split!r}; there are {', '.join(NAMES)}, each with "
            f"{', '.join(SPLITS)}."
        )
    if min(counts) < 1:
        raise ValueError(f"Every split needs at least one image, received {counts}.")
    if name == "photos":
        return _patches(split, counts[SPLITS.index(split)], seed)
    return _official(name, split, counts)


def _official(name: str, split: str, counts: tuple[int, int, int]) -> SourceImages:
    train, valid, test = counts
    data = load_bundled(name)
    origin = "bundled"
    if train + valid > len(data.train_images) or test > len(data.test_images):
        data, origin = load_full(name), "full"
    if train + valid > len(data.train_images) or test > len(data.test_images):
        raise ValueError(
            f"{name} has {len(data.train_images)} training and {len(data.test_images)} test "
            f"images, asked for {train} + {valid} and {test}."
        )
    if split == "test":
        return SourceImages(data.test_images[:test], data.test_labels[:test], origin)
    some = slice(0, train) if split == "train" else slice(train, train + valid)
    return SourceImages(data.train_images[some], data.train_labels[some], origin)


def photograph(name: str) -> Tensor:
    """A photograph, uint8 ``[H, W, 3]``."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return torch.from_numpy(np.array(load_sample_image(f"{name}.jpg")))
    if name == "grace_hopper":
        from matplotlib.cbook import get_sample_data
        from PIL import Image

        with Image.open(
            get_sample_data("grace_hopper.jpg", asfileobj=False), formats=["JPEG"]
        ) as file:
            return torch.from_numpy(np.array(file.convert("RGB")))
    from skimage import data

    return torch.from_numpy(np.array(getattr(data, name)()))


def _patches(split: str, count: int, seed: int) -> SourceImages:
    """Squares at random places and of random sizes, shrunk by area averaging, some mirrored.

    Patches of nearly one value (sky, black background) are drawn anew: they show no edit.
    """
    photos = [photograph(n).permute(2, 0, 1).float() for n in PHOTOS[split]]
    draw = np.random.default_rng([seed, SPLITS.index(split)])
    out: list[Tensor] = []
    while len(out) < count:
        photo = photos[len(out) % len(photos)]
        side = round(float(np.exp(draw.uniform(*np.log(_SIDES)))))
        top = int(draw.integers(photo.shape[1] - side + 1))
        left = int(draw.integers(photo.shape[2] - side + 1))
        patch = photo[None, :, top : top + side, left : left + side]
        patch = F.interpolate(patch, size=(PATCH, PATCH), mode="area")[0]
        mirrored = draw.random() < 0.5
        if float(patch.mean(0).std()) >= _LEAST_SPREAD:
            out.append(patch.flip(-1) if mirrored else patch)
    images = torch.stack(out).permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()
    origin = "; ".join(f"{n} ({LICENCES[n]})" for n in PHOTOS[split])
    return SourceImages(images, None, f"photographs: {origin}")
