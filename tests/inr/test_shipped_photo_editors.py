"""Editors for photographs that ship, on a photograph that none was trained on."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from gmn_opt.data import load_photograph
from gmn_opt.inr import TiledInr, fit_tiles, load_editor, shipped_editors
from gmn_opt.inr.edits import PHOTO, edited
from gmn_opt.inr.tiled_editing import aim, edit_tiles, serves_tiles
from gmn_opt.inr.tiled_fitting import TILE_FIT
from gmn_opt.inr.tiling import seam_ratio
from gmn_opt.weights import card

SHIPPED = [n for n in shipped_editors() if n.startswith(f"inr-{PHOTO}")]


@pytest.fixture(scope="module")
def face() -> TiledInr:
    """The cat's face as 2 by 2 tiles."""
    return fit_tiles(load_photograph()[40:112, 60:132], fit=replace(TILE_FIT, steps=250))


def test_all_ship() -> None:
    edits = ("contrast", "denoise", "neon", "sharpen", "sketch", "warm")
    assert [f"inr-{PHOTO}{e}-colour" for e in edits] == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_edits_a_photograph(name: str, face: TiledInr) -> None:
    editor = load_editor(name, 3)
    assert serves_tiles(editor)
    shown = face.render()
    wanted = edited(shown, editor.config.edit)
    result = edit_tiles(editor, face).render()
    left = float((result - wanted).square().mean() / (shown - wanted).square().mean())
    # there is nothing to clean in a fit without grain
    assert left < (1 if name.endswith("denoise-colour") else 0.2)
    assert seam_ratio(result, face.tiling) < 1.2 * seam_ratio(wanted, face.tiling)


@pytest.mark.parametrize("name", ["inr-photo-neon-colour", "inr-photo-warm-colour"])
def test_strength_is_smooth_and_never_noise(name: str, face: TiledInr) -> None:
    """What lies between is a mixture of two pictures; equal steps change the picture equally."""
    editor = load_editor(name, 3)
    shown, whole = face.render(), edit_tiles(editor, face).render()
    far = float((shown - whole).square().mean())
    before, steps = shown, []
    for strength in (0.25, 0.5, 0.75):
        now = edit_tiles(editor, face, strength).render()
        mixture = shown + strength * (whole - shown)
        assert float((now - mixture).square().mean()) < 0.02 * far
        steps.append(float((now - before).square().mean()) ** 0.5)
        before = now
    steps.append(float((whole - before).square().mean()) ** 0.5)
    assert max(steps) < 2 * min(steps)


@torch.no_grad()
@pytest.mark.parametrize("name", SHIPPED)
def test_colours_that_are_rare_are_known(name: str) -> None:
    """A cat in rich purple or green: two were 0.07 away, trained on natural colours alone."""
    editor = load_editor(name, 3)
    cat = load_photograph() / 255
    grey = cat.mean(-1, keepdim=True)
    rich = (grey + 2.5 * (cat - grey)).clamp(0, 1) * 2 - 1
    for order in permutations(range(3)):
        shown = rich[..., list(order)]
        error = aim(editor, shown) - edited(shown, editor.config.edit)
        assert float(error.square().mean()) < 0.004


@pytest.mark.parametrize("name", SHIPPED)
def test_cards_say_what_was_measured(name: str) -> None:
    facts = card(name)
    assert facts["data"]["photographs"]["train"] >= 50
    assert {"chelsea", "retina", "coffee", "rocket"} <= set(facts["data"]["never_seen"])
    assert torch.tensor([t["test_mse"] for t in facts["results"]["tests"]]).mean() == (
        pytest.approx(facts["results"]["test_mse"], rel=1e-4)
    )
    for part in ("rounds", "predictor"):
        assert facts["training"][part]["command"].startswith("python -m experiments.photo_editing")
