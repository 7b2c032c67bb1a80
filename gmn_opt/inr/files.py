"""INRs in files: safetensors with the architecture in the metadata, never pickles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gmn_opt.inr.base import Inr, config_from_dict
from gmn_opt.inr.foreign import siren_from_state_dict
from gmn_opt.weights import WeightsError, WeightSet, load, save

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
    if not _is_ours(path):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        try:
            return siren_from_state_dict(tensors, omega=omega, value_range=value_range), {}
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
    found = load(path, KIND)
    if not isinstance(found.config, dict) or not {"inr", "about"} <= found.config.keys():
        raise WeightsError(f"{path} does not say how its INR is built. Save it again.")
    config = config_from_dict(found.config["inr"])
    with torch.random.fork_rng(devices=[]):
        inr = config.build()
    try:
        inr.load_state_dict(found.tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path}: its tensors do not fit its architecture: {error}") from error
    return inr, found.config["about"]


def _is_ours(path: Path) -> bool:
    """Whether gmn-opt wrote the file; raises WeightsError unless it is a whole safetensors file."""
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            return "gmn_opt" in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is no safetensors file, or cut off or damaged ({error}). Only safetensors "
            "are read, since a pickle may run code; convert with safetensors.torch.save_file."
        ) from error
