"""Editors in files and in the package: from a name, an edit or a path to an editor."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gmn_opt.inr.base import config_from_dict
from gmn_opt.inr.editor import EditorConfig, WeightEditor
from gmn_opt.weights import WeightsError, WeightSet, available, load, save
from gmn_opt.weights.shipped import path_of

KIND = "inr editor"
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
        editor: Path of a ``.safetensors`` file, name of a shipped editor (``inr-dilate-grey``), or
            an edit (``dilate``) for which one ships.
        channels: Of the networks to edit, 1 or 3: chooses among the editors for one edit.

    Raises WeightsError when there is none, or the file is damaged, holds something else, or is for
    another number of channels.
    """
    text = os.fspath(editor)
    is_file = text.endswith(".safetensors") or not isinstance(editor, str)
    path = Path(text) if is_file else path_of(_shipped(text, channels))
    found = load(path, KIND)
    try:
        inr = config_from_dict(found.config["inr"])
        with torch.random.fork_rng(devices=[]):
            made = WeightEditor(inr, EditorConfig(**found.config["editor"]))
        made.load_state_dict(found.tensors)
        made.about = dict(found.config["about"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} does not fit the editors of this gmn-opt: {error}") from error
    if channels is not None and inr.outputs != channels:
        raise WeightsError(
            f"{path} edits networks of {inr.outputs} channels, this one has {channels}. Fit one "
            f"in {colours(inr.outputs)}, or take another editor."
        )
    return made.requires_grad_(False).eval()


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
