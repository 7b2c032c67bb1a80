"""Editing tiled INRs, and training editors for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gmn_opt.data import load_photograph
from gmn_opt.inr import InrConfig, Params, PyramidConfig, SirenConfig, Tiling, WeightEditor
from gmn_opt.inr.editor import EditorConfig
from gmn_opt.inr.fitting import initial_params
from gmn_opt.inr.photo_training import (
    PHOTO_EDITOR,
    PhotoTraining,
    TileSet,
    crops,
    cut_off_where_wanted,
    new_photo_editor,
    train_predictor,
    train_rounds,
)
from gmn_opt.inr.settling import settle
from gmn_opt.inr.tiled import TiledInr
from gmn_opt.inr.tiled_editing import aim, edit_tiles, for_family, serves_tiles

TINY = replace(PHOTO_EDITOR, edit="photo-warm", hidden=8, edge_hidden=4, rounds=2, vision=4)


def tiny_editor(settle_steps: int = 6, kind: InrConfig | None = None) -> WeightEditor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made_for = kind or SirenConfig(2, 3, (8, 8))
        editor = WeightEditor(made_for, replace(TINY, settle=settle_steps))
        with torch.no_grad():
            for p in editor.metanet.parameters():
                p.add_(torch.randn_like(p) / 4)
            for p in editor.refinement.predictor.parameters():  # type: ignore[union-attr]
                p.add_(torch.randn_like(p) / 20)
    return editor.requires_grad_(False).double()


def tiles(widths: tuple[int, ...] = (8, 8)) -> TiledInr:
    config, tiling = SirenConfig(2, 3, widths), Tiling(18, 29, 10, 2)
    params = initial_params(config.build(), 0, range(len(tiling)))
    return TiledInr(config, tiling, {n: p.double() for n, p in params.items()})


def permuted(params: Params, seed: int) -> Params:
    """The hidden neurons of every layer in another order."""
    generator, out = torch.Generator().manual_seed(seed), dict(params)
    for layer in range(len(params) // 2 - 1):
        order = torch.randperm(out[f"layers.{layer}.bias"].shape[1], generator=generator)
        for name in (f"layers.{layer}.weight", f"layers.{layer}.bias"):
            out[name] = out[name][:, order]
        after = f"layers.{layer + 1}.weight"
        out[after] = out[after][:, :, order]
    return out


@pytest.mark.parametrize("widths", [(8, 8), (12, 12), (6, 9, 7)])
def test_one_editor_for_several_architectures_is_equivariant(widths: tuple[int, ...]) -> None:
    editor, tiled = tiny_editor(), tiles(widths)
    done = edit_tiles(editor, tiled)
    other = edit_tiles(editor, tiled.with_params(permuted(tiled.params, 1)))
    again = permuted(done.params, 1)
    for name, p in other.params.items():
        assert torch.allclose(p, again[name], rtol=0, atol=1e-10), name
    assert float((done.render() - tiled.render()).abs().max()) > 1e-3
    assert done.about["edits"] == [{"edit": "photo-warm", "strength": 1.0}]


@pytest.mark.parametrize("widths", [(6,), (9,), (5, 7)])
def test_grids_are_edited_equivariantly(widths: tuple[int, ...]) -> None:
    """Features of every grid may change places, as neurons may; one editor for several decoders."""
    made_for = PyramidConfig(2, 3, (6,), resolutions=(2, 5), channels=3)
    editor, config = tiny_editor(kind=made_for), replace(made_for, widths=widths)
    tiling = Tiling(18, 29, 10, 2)
    params = initial_params(config.build(), 0, range(len(tiling)))
    tiled = TiledInr(config, tiling, {n: p.double() for n, p in params.items()})
    symmetry = editor.graph_of(config).random_symmetry(torch.Generator().manual_seed(2))
    moved = editor.graph_of(config).permute(tiled.params, symmetry)
    assert any(not torch.equal(moved[f"grids.{i}"], tiled.params[f"grids.{i}"]) for i in (0, 1))
    done = edit_tiles(editor, tiled)
    other = edit_tiles(editor, tiled.with_params(moved))
    again = editor.graph_of(config).permute(done.params, symmetry)
    for name, p in other.params.items():
        assert torch.allclose(p, again[name], rtol=0, atol=1e-10), name
    assert float((done.render() - tiled.render()).abs().max()) > 1e-3


def test_an_editor_serves_tiles_of_another_family() -> None:
    """The image that it aims at is the same; plain steps reach it."""
    editor, config = tiny_editor(80), PyramidConfig(2, 3, (8,), resolutions=(4, 9), channels=3)
    tiling = Tiling(14, 14, 10, 2)
    params = initial_params(config.build(), 0, range(len(tiling)))
    tiled = TiledInr(config, tiling, {n: p.double() for n, p in params.items()})
    other, shown = for_family(editor, config), tiled.render()
    goal = aim(editor, shown)
    assert torch.equal(aim(other, shown), goal)
    left = (edit_tiles(other, tiled).render() - goal).square().mean()
    assert float(left) < 0.1 * float((shown - goal).square().mean())
    assert torch.equal(for_family(editor, config, other).scale, other.scale)
    with pytest.raises(ValueError, match="was made for SirenConfig"):
        for_family(editor, config, editor)


def test_strength_mixes_images() -> None:
    editor, tiled = tiny_editor(80), tiles()
    assert edit_tiles(editor, tiled, 0) is tiled
    shown = tiled.render()
    whole = aim(editor, shown)
    assert torch.allclose(aim(editor, shown, 0.5), (shown + whole) / 2)
    far = [float((edit_tiles(editor, tiled, s).render() - shown).square().mean())
           for s in (0.25, 0.5, 1.0)]  # fmt: skip
    assert far == sorted(far)
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            edit_tiles(editor, tiled, strength)


def test_settling_reaches_its_goal() -> None:
    tiled = tiles((16, 16))
    goal = tiled.tiles() * 0.5 + 0.2
    before = float((tiled.tiles() - goal).square().mean())
    done = settle(tiled.template(), tiled.params, goal, 60)
    after = float((tiled.with_params(done).tiles() - goal).square().mean())
    assert after < before / 20
    same = settle(tiled.template(), tiled.params, goal, 0)
    assert all(torch.equal(same[n], p) for n, p in tiled.params.items())


def test_editors_of_single_networks_are_refused() -> None:
    config = EditorConfig("dilate", hidden=8, edge_hidden=4, layers=1, rounds=1, vision=2)
    single = WeightEditor(SirenConfig(2, 3, (8, 8)), config).double()
    assert not serves_tiles(single)
    with pytest.raises(ValueError, match="is for single networks of 28 pixels"):
        edit_tiles(single, tiles())
    with pytest.raises(ValueError, match="other widths allowed"):
        edit_tiles(tiny_editor(), tiles().__class__(
            SirenConfig(2, 1, (8, 8)), Tiling(9, 9),
            {n: p.double() for n, p in
             initial_params(SirenConfig(2, 1, (8, 8)).build(), 0, [0]).items()}))  # fmt: skip


def test_what_is_cut_off_in_use_is_no_error_of_a_predictor() -> None:
    wanted = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.5, -0.5])
    found = torch.tensor([1.3, 0.9, -1.2, -0.7, 1.1, -1.1], requires_grad=True)
    loss = (cut_off_where_wanted(found, wanted) - wanted).square().sum()
    loss.backward()
    assert found.grad is not None
    assert (found.grad != 0).tolist() == [False, True, False, True, True, True]


def test_both_parts_are_trained_and_rounds_are_taken_over() -> None:
    photos = [load_photograph()]
    editor = new_photo_editor("photo-warm")
    assert editor.refinement is not None
    predictor = editor.refinement.predictor
    before = {n: t.clone() for n, t in editor.state_dict().items()}
    losses: list[float] = []
    config = PhotoTraining(2.0, batch=2, check_every=5)
    train_predictor(predictor, photos, "photo-warm", config, 0, lambda d, s, x: losses.append(x))
    assert losses[-1] < losses[0] / 2
    small = SirenConfig(2, 3, (8, 8))
    around = crops(photos, 4, 56, np.random.default_rng(0))
    some = TileSet(small, initial_params(small.build(), 0, range(4)), around)
    made = train_rounds(editor, [some], ["photo-warm"], PhotoTraining(0.01, batch=2), 0)
    assert made["steps"] >= 1
    assert np.isfinite(made["loss"])
    after = editor.state_dict()
    rates = "refinement.log_rates"
    assert not torch.equal(after[rates], before[rates])
    other = new_photo_editor("photo-neon", rounds_of=editor, seed=1).state_dict()
    assert torch.equal(other[rates], after[rates])
    key = "refinement.predictor.last.weight"
    assert not torch.equal(other[key], after[key])
    with pytest.raises(ValueError, match="editor of other sizes"):
        new_photo_editor("photo-neon", rounds_of=tiny_editor())
    with pytest.raises(ValueError, match="must be positive"):
        PhotoTraining(0)


def test_crops_are_pieces_of_photographs() -> None:
    photo = load_photograph()
    draw = np.random.default_rng(0)
    made = crops([photo], 5, 40, draw)
    assert made.shape == (5, 40, 40, 3)
    assert made.dtype == torch.uint8
    grainy = crops([torch.full((90, 90, 3), 128, dtype=torch.uint8)], 8, 40, draw, noise=30)
    assert float(grainy.float().std()) > 3


def test_crops_have_colours_that_photographs_lack() -> None:
    """Channels change places in about half of them; without colour there is nothing to change."""
    orange = torch.tensor([240, 120, 30], dtype=torch.uint8).expand(90, 90, 3)
    made = crops([orange], 60, 8, np.random.default_rng(0)).float().mean((1, 2))
    orders = [tuple(row.argsort().tolist()) for row in made]
    assert len(set(orders)) == 6
    assert 0.4 < orders.count((2, 1, 0)) / len(orders) < 0.75
    assert crops([orange[..., :1]], 2, 8, np.random.default_rng(0)).shape == (2, 8, 8, 1)
