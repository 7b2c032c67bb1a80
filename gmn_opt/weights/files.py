"""Reading and writing weight files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from gmn_opt.weights.atomic import write_atomically

#: Raised whenever the same tensors would mean another function.
FORMAT_VERSION = 1
_KEY = "gmn_opt"
#: What weights may be made of.
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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
    """Write ``weights`` to ``path`` (safetensors), whole or not at all.

    The name is not written: it is that of the file. Raises OSError when it cannot be written.
    """
    about = {"version": FORMAT_VERSION, "kind": weights.kind, "config": weights.config}
    tensors = {
        # copies, because safetensors refuses tensors that share memory
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, t in weights.tensors.items()
    }
    content = serialize(tensors, metadata={_KEY: json.dumps(about, sort_keys=True)})
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(content))


def _about(metadata: Mapping[str, str] | None, path: Path) -> dict[str, Any]:
    foreign = WeightsError(
        f"{path} is a safetensors file, but not one of gmn-opt's: it does not say what it is. "
        "Pass a file that gmn-opt wrote."
    )
    try:
        about = json.loads((metadata or {})[_KEY])
    except (KeyError, json.JSONDecodeError) as error:
        raise foreign from error
    if not isinstance(about, dict) or "version" not in about:
        raise foreign
    if about["version"] != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {about['version']}, this gmn-opt reads version "
            f"{FORMAT_VERSION}. Install the gmn-opt that wrote it, or meta-train again."
        )
    if "kind" not in about or "config" not in about:
        raise foreign
    return about


def load(path: str | os.PathLike[str], kind: str) -> WeightSet:
    """Read a weights file and check that it is of this ``kind``.

    Raises WeightsError when the file is missing, cut off or damaged, of another format version, of
    another kind, or holds anything but finite floating-point numbers.
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
    _check_values(tensors, path)
    return WeightSet(path.stem, kind, about["config"], tensors)


def _check_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise WeightsError for numbers that no network of ours has."""
    for name, t in tensors.items():
        if t.dtype not in _DTYPES:
            raise WeightsError(
                f"{path}: tensor {name!r} has dtype {t.dtype}, but weights are one of "
                f"{', '.join(str(d) for d in _DTYPES)}. Convert it, or copy the file again."
            )
        if not bool(t.isfinite().all()):
            raise WeightsError(
                f"{path}: tensor {name!r} holds NaN or infinity, so nothing that it computes would "
                "be a number. Take an earlier version of these weights."
            )
