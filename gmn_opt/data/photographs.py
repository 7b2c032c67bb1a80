"""The colour photograph that comes with the package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gmn_opt.data.bundle import BUNDLED, broken, check_digest, read_manifest
from gmn_opt.extras import lazy

if TYPE_CHECKING:
    from PIL import Image
else:
    Image = lazy("PIL.Image", "inr")

_MANIFEST = "photographs.json"


def photograph_names() -> tuple[str, ...]:
    """The photographs that `load_photograph` knows."""
    return tuple(read_manifest(BUNDLED / _MANIFEST))


def load_photograph(name: str = "chelsea") -> Tensor:
    """A photograph that ships with the package, uint8 ``[H, W, 3]``; needs no network.

    ``"chelsea"`` is a cat, 128x128, and none of the photographs that the shipped editors were
    trained on. Licence and origin are in ``gmn_opt/data/bundled/DATA.md``.

    Raises:
        ValueError: Unknown name.
        RuntimeError: The file is missing, or is not the one that was shipped.
    """
    path, entry = _entry(BUNDLED, name)
    content = _checked(path, entry)
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
        return torch.from_numpy(np.array(image))


def photograph_path(name: str = "chelsea") -> Path:
    """The PNG of a photograph, with its contents checked; raises as `load_photograph` does."""
    path, entry = _entry(BUNDLED, name)
    _checked(path, entry)
    return path


def _entry(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    manifest = read_manifest(folder / _MANIFEST)
    if name not in manifest:
        raise ValueError(f"no bundled photograph {name!r}; there is {', '.join(manifest)}")
    return folder / manifest[name]["file"], manifest[name]


def _checked(path: Path, entry: dict[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise broken(path, "is missing") from error
    check_digest(path, content, entry["sha256"])
    return content
