"""How well an editor does: its error, the bounds around it, and pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from experiments.inr.editors import some_of
from gmn_opt.figures import legend_below, picture
from gmn_opt.inr import FitConfig, InrSet, WeightEditor, fit_batch, render
from gmn_opt.inr.edit_training import rendered_edits
from gmn_opt.inr.edits import edited
from gmn_opt.inr.gallery import draw_gallery, error_image

#: INRs fitted for the floor.
_FLOOR = 100


@torch.no_grad()
def bounds(data: InrSet, edit: str, fit: FitConfig) -> dict[str, float]:
    """Errors of doing nothing and of fitting the edited images directly."""
    target = edited(data.targets(), edit)
    inr, size = data.template(), (target.shape[1], target.shape[2])
    shown = render(inr, size, data.params)
    few = min(_FLOOR, len(data))
    with torch.enable_grad():
        direct = fit_batch(target[:few], data.config, fit, seed=10_000)
    return {
        "identity": float(mse_loss(shown, target)),
        "identity_of_image": float(mse_loss(data.targets(), target)),
        "inr_against_image": float(mse_loss(shown, data.targets())),
        "floor": float(mse_loss(render(inr, size, direct.params), target[:few])),
        "floor_inrs": few,
    }


def judge(editor: WeightEditor, data: InrSet, edit: str) -> float:
    """Mean squared error in [-1, 1] over a set."""
    return float(mse_loss(rendered_edits(editor, data), edited(data.targets(), edit)))


def plot_curve(curve: list[dict[str, float]], marks: dict[str, float], path: Path) -> None:
    """Validation error over minutes of training, with the bounds as lines."""
    with picture(path, 5, 3.8) as figure:
        axis = figure.subplots()
        minutes = [c["seconds"] / 60 for c in curve]
        axis.semilogy(minutes, [c["valid_mse"] for c in curve], label="validation")
        axis.semilogy(minutes, [c["train_mse"] for c in curve], alpha=0.5, label="training")
        for name, colour in (("identity", "C3"), ("floor", "C2")):
            axis.axhline(marks[name], color=colour, linestyle="--", linewidth=1, label=name)
        axis.set_xlabel("minutes of training")
        axis.set_ylabel("mean squared error in [-1, 1]")
        legend_below(figure, 4)


def plot_gallery(editor: WeightEditor, data: InrSet, edit: str, path: Path) -> None:
    """The first test images: original, INR, edited INR at half and full strength, reference."""
    few = some_of(data, 8)
    target = edited(few.targets(), edit)
    shown: dict[str, Tensor] = {"image": few.targets()}
    for name, strength in (("INR", 0.0), ("half edit", 0.5), ("edited INR", 1.0)):
        shown[name] = rendered_edits(editor, few, strength)
    shown |= {"reference": target, "error": error_image(shown["edited INR"], target)}
    draw_gallery(shown, path, f"{edit}: INRs never seen in training")
