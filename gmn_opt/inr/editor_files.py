"""Editors in files and in the package: from a name, an edit or a path to an editor."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gmn_opt.inr.base import config_from_dict
from gmn_opt.inr.editor import EditorConfig, WeightEditor
from gmn_opt.inr.refining import SLOPE_FEATURES
from gmn_opt.weights import WeightsError, WeightSet, available, load, save
from gmn_opt.weights.folders import WEIGHTS
from gmn_opt.weights.headers import Shapes, check_metanet, compare
from gmn_opt.weights.plain import is_count, reason, shown
from gmn_opt.weights.shipped import path_of

KIND = "inr editor"
#: Parameters and layers of the INR that a file may say its editor was made for; the editor takes
#: others, too.
MOST_PARAMETERS, MOST_LAYERS = 1 << 20, 32
#: Pixels along each side of the images that an editor renders.
MOST_PIXELS = 1024
#: Plain steps that an editor takes after its rounds.
MOST_SETTLE = 10_000
_PREFIX = "inr-"
_COLOURS = {1: "grey", 3: "colour"}


def colours(channels: int) -> str:
    """``"grey"`` or ``"colour"``, as in the names of editors."""
    return _COLOURS.get(channels, f"{channels}-channel")


def editor_name(edit: str, channels: int) -> str:
    """Name under which an editor ships, such as ``inr-dilate-grey``."""
    return f"{_PREFIX}{edit}-{colours(channels)}"


def shipped_editors(channels: int | None = None) -> list[str]:
    """Names of the editors inside the package, or of those for networks of so many channels."""
    end = "" if channels is None else f"-{colours(channels)}"
    return [n for n in available() if n.startswith(_PREFIX) and n.endswith(end)]


def save_editor(
    path: str | os.PathLike[str], editor: WeightEditor, about: dict[str, Any] | None = None
) -> None:
    """Write an editor, whole or not at all; ``about`` are plain values to keep along."""
    config = {
        "editor": asdict(editor.config),
        "inr": editor.inr.to_dict(),
        "about": about or {},
    }
    save(path, WeightSet(Path(path).stem, KIND, config, dict(editor.state_dict())))


def load_editor(editor: str | os.PathLike[str], channels: int | None = None) -> WeightEditor:
    """A frozen editor in evaluation mode; its ``about`` is what was saved along.

    Args:
        editor: Path of a ``.safetensors`` file or of a folder with one, name of a shipped editor
            (``inr-dilate-grey``), or an edit (``dilate``) for which one ships.
        channels: Of the networks to edit, 1 or 3: chooses among the editors for one edit.

    Raises WeightsError when there is none, or the file is damaged, holds something else, or is for
    another number of channels.
    """
    text = os.fspath(editor)
    is_file = text.endswith(".safetensors") or not isinstance(editor, str)
    is_file = is_file or (Path(text).is_dir() and (Path(text) / WEIGHTS).is_file())
    path = Path(text) if is_file else path_of(_shipped(text, channels))
    found = load(path, KIND, _check)
    try:
        inr = config_from_dict(found.config["inr"])
        with torch.random.fork_rng(devices=[]):
            made = WeightEditor(inr, EditorConfig(**found.config["editor"]))
        made.load_state_dict(found.tensors)
        made.about = dict(found.config["about"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not fit the inr editor of this gmn-opt: {reason(error)}"
        ) from error
    if channels is not None and inr.outputs != channels:
        raise WeightsError(
            f"{path} edits networks of {inr.outputs} channels, this one has {channels}. Fit one "
            f"in {colours(inr.outputs)}, or take another editor."
        )
    return made.requires_grad_(False).eval()


def _check(config: dict[str, Any], shapes: Shapes) -> None:
    """Raise ValueError unless an editor of this config would be about as large as its tensors."""
    if not all(isinstance(config.get(part), dict) for part in ("inr", "editor", "about")):
        raise ValueError("it lacks an entry of inr, editor and about")
    values, inr = config["editor"], config_from_dict(config["inr"])
    numbers = sum(math.prod(shape) for shape in inr.shapes().values())
    if numbers > MOST_PARAMETERS or len(inr.widths) > MOST_LAYERS:
        raise ValueError(
            f"it is for INRs of {numbers:,} parameters and {len(inr.widths)} layers, at most "
            f"{MOST_PARAMETERS:,} and {MOST_LAYERS} are read"
        )
    check_metanet(values, shapes)
    rounds, probes = values.get("rounds", 0), values.get("probes", 0)
    if not is_count(values.get("grid", 1), 0, MOST_PIXELS):
        raise ValueError(f"grid must be at most {MOST_PIXELS}, received {shown(values['grid'])}")
    if not is_count(values.get("settle", 0), 0, MOST_SETTLE):
        raise ValueError(
            f"settle must be at most {MOST_SETTLE}, received {shown(values['settle'])}"
        )
    features = 1 + 2 * _number(values, "frequencies", 2) + (SLOPE_FEATURES if rounds else 0)
    want: dict[str, tuple[Any, ...]] = {
        "metanet.edge_encoder.weight": (values["edge_hidden"], features)
    }
    if probes:
        want["probes.places"] = (probes, inr.inputs)
    if rounds:
        vision = _number(values, "vision", 16)
        want["refinement.log_rates"] = (rounds, *shapes.get("scale", ()))
        seen = inr.outputs + 2 * _flag(values, "places", True)
        want["refinement.predictor.layers.0.weight"] = (vision, seen, 3, 3)
        want["refinement.predictor.layers.1.weight"] = (vision, vision, 3, 3)
    compare({n: shapes.get(n) for n in want}, want)


def _number(values: dict[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if not is_count(value, 0):
        raise ValueError(f"{name} must be a whole number, received {shown(value)}")
    return int(value)


def _flag(values: dict[str, Any], name: str, default: bool) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, received {shown(value)}")
    return value


def _shipped(text: str, channels: int | None) -> str:
    """The name of the shipped editor that ``text`` names, or whose edit it is."""
    names = shipped_editors()
    if text in names:
        return text
    fitting = [n for n in names if n.removeprefix(_PREFIX).rpartition("-")[0] == text]
    if channels is not None:
        fitting = [n for n in fitting if n == editor_name(text, channels)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise WeightsError(
            f"There are several editors for {text!r}: {', '.join(fitting)}. Say which."
        )
    kind = "" if channels is None else f" on {colours(channels)} images"
    raise WeightsError(
        f"There is no editor for {text!r}{kind} in this installation; there are: "
        f"{', '.join(names) or 'none'}. Train one with `python -m experiments.inr_editing`, and "
        "pass its path, which ends in .safetensors."
    )
