"""Reference edits for photographs, and edits of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmn_opt.data import load_photograph
from gmn_opt.inr import edits
from gmn_opt.inr.edits import EDITS, PHOTO, edited, find_edit, register_edit


def darker(image: np.ndarray) -> np.ndarray:
    """Half as bright."""
    return image // 2


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "EDITS", EDITS.copy())


@pytest.mark.parametrize("name", [n for n in EDITS if n.startswith(PHOTO)])
def test_what_lies_far_away_does_not_count(name: str) -> None:
    """Tiles know eight pixels around them."""
    image = load_photograph()[30:70, 30:80].float() / 127.5 - 1
    other = image.clone()
    other[:, 30:] = image[:, 30:].flip(1)
    change = (edited(image, name) - edited(other, name)).abs().amax((0, 2))
    assert float(change[:21].max()) < 0.05
    assert float(change[30:].max()) > 0.05
    for shape in ((9, 7, 1), (9, 7, 3)):
        grey = torch.zeros(shape)
        assert edited(grey, name).shape == shape


def test_each_does_what_it_says() -> None:
    image = load_photograph().float() / 127.5 - 1
    done = {n.removeprefix(PHOTO): edited(image, n) for n in EDITS if n.startswith(PHOTO)}
    assert done["contrast"].std() > 1.1 * image.std()
    assert done["sharpen"].diff(dim=0).abs().mean() > 1.3 * image.diff(dim=0).abs().mean()
    red, blue = (done["warm"] - image).mean((0, 1))[[0, 2]]
    assert red > 0.02 > -0.02 > blue
    assert torch.equal(done["sketch"][..., 0], done["sketch"][..., 2])
    assert float(done["sketch"].mean()) > 0.3
    assert float(done["neon"].mean()) < float(image.mean())
    grain = 0.15 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    before = float(grain.square().mean())
    assert float((edited(image + grain, "photo-denoise") - image).square().mean()) < before / 3


def test_an_edit_of_ones_own() -> None:
    made = register_edit("photo-darker", darker, noise=3)
    assert (made.title, made.noise) == ("Half as bright.", 3)
    white = torch.ones(4, 4, 3)
    assert edited(white, "photo-darker")[0, 0, 0] == pytest.approx(127 / 127.5 - 1)
    assert find_edit("darker", PHOTO) is made
    assert find_edit("operator:neg", PHOTO).name == "photo-neg"
    for text, message in (
        ("nothing", "There is no edit 'nothing'; there are contrast"),
        ("no_such_module:f", "no function no_such_module:f"),
        ("operator:none_such", "no function operator:none_such"),
        ("math:pi", "math:pi is no function"),
    ):
        with pytest.raises(ValueError, match=message):
            find_edit(text, PHOTO)
    with pytest.raises(ValueError, match="already"):
        register_edit("dilate", darker)
    with pytest.raises(ValueError, match="small letters"):
        register_edit("Da rk", darker)
