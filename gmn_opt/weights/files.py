"""Reading and writing weight files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

#: Raised whenever the same tensors would mean another function.
FORMAT_VERSION = 1
_KEY = "gmn_opt"


class WeightsError(ValueError):
    """A weights file is missing, damaged, or made for something else."""


@dataclass(frozen=True)
class WeightSet:
    """Named tensors, with what they belong to (``kind``) and how to build it (``config``)."""

    name: str
    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def save(path: str | os.PathLike[str], weights: WeightSet) -> None:
    """Write ``weights`` to ``path`` (safetensors), whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"version": FORMAT_VERSION, "kind": weights.kind, "config": weights.config}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        tensors = {name: t.detach().cpu().contiguous() for name, t in weights.tensors.items()}
        save_file(tensors, temporary, metadata={_KEY: json.dumps(about, sort_keys=True)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _about(metadata: Mapping[str, str] | None, path: Path) -> dict[str, Any]:
    try:
        about = json.loads((metadata or {})[_KEY])
        version = about["version"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"{path} is a safetensors file, but not one of gmn-opt's: it does not say what it is. "
            "Pass a file that gmn-opt wrote."
        ) from error
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version}, this gmn-opt reads version {FORMAT_VERSION}. "
            "Install the gmn-opt that wrote it, or meta-train again."
        )
    return dict(about)


def load(path: str | os.PathLike[str], kind: str) -> WeightSet:
    """Read a weights file and check that it is of this ``kind``.

    Raises WeightsError when the file is missing, cut off or damaged, of another format version,
    or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(file.metadata(), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is cut off or damaged ({error}). Copy or download it again."
        ) from error
    if about["kind"] != kind:
        raise WeightsError(f"{path} holds weights of a {about['kind']}, not of a {kind}.")
    return WeightSet(path.stem, kind, about["config"], tensors)
