"""Reading and writing weight files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor

from gmn_opt.weights.atomic import write_atomically
from gmn_opt.weights.folders import in_folder
from gmn_opt.weights.headers import OpenFile, Shapes, WeightsError, check_rule
from gmn_opt.weights.plain import parse_json, reason, shown

__all__ = ["FORMAT_VERSION", "WeightSet", "WeightsError", "is_ours", "load", "save"]

#: Raised whenever the same tensors would mean another function.
FORMAT_VERSION = 1
_KEY = "gmn_opt"
#: Raises ValueError, with a reason, when a configuration and the shapes cannot belong together.
Check = Callable[[dict[str, Any], Shapes], None]
_CHECKS: Mapping[str, Check] = {"learned rule": check_rule}


@dataclass(frozen=True)
class WeightSet:
    """Named tensors, with what they belong to (``kind``) and how to build it (``config``)."""

    name: str
    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def save(path: str | os.PathLike[str], weights: WeightSet) -> None:
    """Write ``weights`` to ``path`` (safetensors), whole or not at all.

    The name is not written: it is that of the file. Raises OSError when it cannot be written, and
    ValueError for a configuration that :func:`load` would refuse.
    """
    about = {"version": FORMAT_VERSION, "kind": weights.kind, "config": weights.config}
    text = json.dumps(about, sort_keys=True)
    parse_json(text)
    tensors = {
        # copies, because safetensors refuses tensors that share memory
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, t in weights.tensors.items()
    }
    content = serialize(tensors, metadata={_KEY: text})
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(content))


def is_ours(file: OpenFile) -> bool:
    """Whether gmn-opt wrote the file, as far as it says."""
    return _KEY in file.metadata


def _about(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    def foreign(why: object) -> WeightsError:
        return WeightsError(
            f"{path} is a safetensors file, but not one of gmn-opt's: it does not say what it is "
            f"({why}). Pass a file that gmn-opt wrote."
        )

    if _KEY not in metadata:
        raise foreign("no metadata of ours")
    try:
        about = parse_json(metadata[_KEY])
    except ValueError as error:
        raise foreign(shown(str(error), 120)) from error
    if not isinstance(about, dict) or "version" not in about:
        raise foreign("no version")
    version = about["version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {shown(version)}, this gmn-opt reads version "
            f"{FORMAT_VERSION}. Install the gmn-opt that wrote it, or meta-train again."
        )
    if not isinstance(about.get("kind"), str) or not isinstance(about.get("config"), dict):
        raise foreign("no kind or no configuration")
    return about


def load(path: str | os.PathLike[str], kind: str, check: Check | None = None) -> WeightSet:
    """Read a weights file and check that it is of this ``kind``.

    A folder stands for the ``weights.safetensors`` in it. The file comes from a stranger: what it
    says is compared with the shapes of its tensors, by ``check``, before anything of the sizes that
    it asks for is made.

    Raises WeightsError when the file is missing, cut off or damaged, of another format version, of
    another kind, holds anything but finite floating-point numbers, or ``check`` refuses it.
    """
    path = Path(path)
    if path.is_dir():
        path = in_folder(path)
    file = OpenFile(path)
    about = _about(file.metadata, path)
    if about["kind"] != kind:
        raise WeightsError(f"{path} holds weights of a {shown(about['kind'])}, not of a {kind}.")
    check = check or _CHECKS.get(kind)
    try:
        if check is not None:
            check(about["config"], file.shapes)
    except ValueError as error:
        raise WeightsError(
            f"{path} does not fit the {kind} of this gmn-opt: {reason(error)}."
        ) from error
    return WeightSet(path.stem, kind, about["config"], file.tensors())
