"""INRs in files: safetensors with the architecture in the metadata, never pickles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from gmn_opt.inr.base import Inr, config_from_dict
from gmn_opt.inr.foreign import siren_from_state_dict
from gmn_opt.weights import WeightsError, WeightSet, load, save
from gmn_opt.weights.files import is_ours
from gmn_opt.weights.headers import OpenFile, Shapes, compare

KIND = "inr"


def save_inr(path: str | os.PathLike[str], inr: Inr, about: dict[str, Any] | None = None) -> None:
    """Write an INR with its architecture, whole or not at all.

    Args:
        path: The file, usually ``NAME.safetensors``.
        inr: The network.
        about: Plain values to keep along, such as the size of the image; `about_inr` reads them.

    Raises OSError when the file cannot be written.
    """
    config = {"inr": inr.config.to_dict(), "about": about or {}}
    save(path, WeightSet(Path(path).stem, KIND, config, dict(inr.named_parameters())))


def load_inr(
    path: str | os.PathLike[str],
    *,
    omega: float = 30.0,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Inr:
    """Read an INR that `save_inr` wrote, or a SIREN's state dict in a foreign safetensors file.

    ``omega`` and ``value_range`` count for the latter only, see `siren_from_state_dict`.

    Raises WeightsError when the file is missing, cut off, damaged, or holds something else.
    """
    return read_inr(path, omega=omega, value_range=value_range)[0]


def read_inr(
    path: str | os.PathLike[str],
    *,
    omega: float = 30.0,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> tuple[Inr, dict[str, Any]]:
    """`load_inr`, and what was saved about it (empty for a foreign file)."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    file = OpenFile(path)
    if not is_ours(file):
        try:
            tensors = file.tensors()
            return siren_from_state_dict(tensors, omega=omega, value_range=value_range), {}
        except WeightsError as error:
            told = str(error)
            raise WeightsError(told if str(path) in told else f"{path}: {told}") from error
    found = load(path, KIND, _check)
    with torch.random.fork_rng(devices=[]):
        inr = config_from_dict(found.config["inr"]).build()
    inr.load_state_dict(found.tensors)
    return inr, found.config["about"]


def _check(config: dict[str, Any], shapes: Shapes) -> None:
    """Raise ValueError unless the INR that ``config`` describes has parameters of these shapes."""
    if not {"inr", "about"} <= config.keys() or not isinstance(config["about"], dict):
        raise ValueError("it does not say how its INR is built")
    compare(shapes, config_from_dict(config["inr"]).shapes())
