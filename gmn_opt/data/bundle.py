"""The real images that come with the package: enough for the demo and the tests, offline."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmn_opt.data.idx import parse_idx, read_raw
from gmn_opt.data.images import ImageDataset

#: The folder of bundled images.
BUNDLED = Path(__file__).parent / "bundled"
_MANIFEST = "manifest.json"


def bundled_names() -> tuple[str, ...]:
    """The data sets that `load_bundled` knows."""
    return tuple(read_manifest(BUNDLED / _MANIFEST))


def load_bundled(name: str) -> ImageDataset:
    """A real subset that ships with the package; needs no network.

    The subsets are the first images of each split in the official order: 10,000 + 2,000 of
    Fashion-MNIST and 12,000 + 2,000 of MNIST. Contents are checked against their sha256.

    Args:
        name: ``"fashion_mnist"`` or ``"mnist"``.

    Returns:
        Fresh tensors at every call: changing them in place harms nobody else.

    Raises:
        ValueError: Unknown name.
        RuntimeError: A file is missing, or is not the one that was shipped.
    """
    return _load(BUNDLED, name)


def _load(folder: Path, name: str) -> ImageDataset:
    manifest = read_manifest(folder / _MANIFEST)
    if name not in manifest:
        raise ValueError(f"no bundled data set {name!r}; there are {', '.join(manifest)}")
    parts: dict[str, Tensor] = {}
    for part, entry in manifest[name]["files"].items():
        parts[part] = _read(folder / entry["file"], entry["sha256"], entry["bytes"])
    return ImageDataset(
        train_images=parts["train_images"],
        train_labels=parts["train_labels"].to(torch.int64),
        test_images=parts["test_images"],
        test_labels=parts["test_labels"].to(torch.int64),
        name=name,
    )


@cache
def read_manifest(path: Path) -> dict[str, Any]:
    """What a manifest of bundled files says; raises RuntimeError when it is missing."""
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise broken(path, "is missing") from error
    return manifest


def check_digest(path: Path, data: bytes, sha256: str) -> None:
    """Raise RuntimeError when the bundled file's contents are not those that were shipped."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise broken(path, f"is damaged (sha256 {found}, expected {sha256})")


def _read(path: Path, sha256: str, size: int) -> Tensor:
    try:
        data = read_raw(path, limit=size)
    except FileNotFoundError as error:
        raise broken(path, "is missing") from error
    except ValueError as error:
        raise broken(path, f"is damaged ({error})") from error
    check_digest(path, data, sha256)
    return parse_idx(data, str(path))


def broken(path: Path, what: str) -> RuntimeError:
    """The error for a file of the package that is not as it was shipped."""
    return RuntimeError(f"the bundled file {path} {what}; reinstall gmn-opt")
