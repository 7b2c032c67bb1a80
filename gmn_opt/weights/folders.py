"""Weights in a folder of their own, as they are shared."""

from __future__ import annotations

from pathlib import Path

from gmn_opt.weights.headers import WeightsError

#: Names in the folder: the weights, their model card, and the page that people see.
WEIGHTS, CARD, PAGE = "weights.safetensors", "card.json", "README.md"


def in_folder(folder: Path) -> Path:
    """The weights in a folder; raises WeightsError where there are none."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise WeightsError(
            f"The folder {folder} has no {WEIGHTS}. Pass one that gmn_opt.hub.save_pretrained "
            "wrote, or a .safetensors file."
        )
    return path
