"""The weights inside the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gmn_opt.weights.folders import in_folder
from gmn_opt.weights.headers import WeightsError
from gmn_opt.weights.plain import read_json, shown

_FOLDER = Path(__file__).parent


def available() -> list[str]:
    """Names of the weights that ship with this package."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def path_of(name: str) -> Path:
    """File of the shipped weights ``name``; raises WeightsError for a name that is not shipped."""
    if name not in available():
        raise WeightsError(
            f"No weights named {name!r} ship with this package; there are {available()}. To use "
            "a file of your own, pass its path."
        )
    return _FOLDER / f"{name}.safetensors"


def find(weights: str | os.PathLike[str]) -> Path:
    """The file behind what ``weights=`` takes.

    Args:
        weights: Name of shipped weights, a ``.safetensors`` file, or a folder with
            ``weights.safetensors`` in it, as :func:`gmn_opt.hub.save_pretrained` writes. A shipped
            name goes before a folder of that name.

    Raises WeightsError for a name that is not shipped, and a folder without weights. Whether a file
    is there shows when it is read.
    """
    text = os.fspath(weights)
    if text.endswith(".safetensors"):
        return Path(text)
    if text not in available() and Path(text).is_dir():
        return in_folder(Path(text))
    return path_of(text)


def card(name: str) -> dict[str, Any]:
    """The model card of shipped weights: command, commit, seed, data, compute, results."""
    return read_card(path_of(name).with_suffix(".json"))


def read_card(path: Path) -> dict[str, Any]:
    """The model card in a file; raises WeightsError for what is none."""
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where entries were expected")
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The model card {path} is missing or damaged ({shown(str(error), 200)}). Install "
            "gmn-opt again."
        ) from error
    return content
