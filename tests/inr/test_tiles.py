"""Tiled INRs: cutting, blending, fitting, files."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from gmn_opt.data import load_photograph
from gmn_opt.inr import FitConfig, SirenConfig, Tiling, fit_tiles, load_tiled, save_inr, save_tiled
from gmn_opt.inr.fitting import initial_params
from gmn_opt.inr.tiled import TiledInr, is_tiled
from gmn_opt.inr.tiled_fitting import FitProgress, estimate
from gmn_opt.inr.tiling import blend, cut, seam_ratio
from gmn_opt.weights import WeightsError

SMALL = SirenConfig(2, 3, (8, 8))


def random_tiled(height: int, width: int) -> TiledInr:
    tiling = Tiling(height, width, 8, 2)
    params = initial_params(SMALL.build(), 0, range(len(tiling)))
    return TiledInr(SMALL, tiling, params)


@pytest.mark.parametrize("size", [(256, 256), (50, 301), (40, 40), (2, 90), (97, 41)])
def test_cutting_and_blending_are_inverse(size: tuple[int, int]) -> None:
    tiling = Tiling(*size)
    image = torch.rand(*size, 3, dtype=torch.float64)
    tiles = cut(image, tiling)
    assert tiles.shape == (len(tiling), *tiling.side, 3)
    assert torch.allclose(blend(tiles, tiling), image, atol=1e-12)
    for axis in (0, 1):
        starts = tiling.starts(axis)
        assert starts[0] == 0
        assert starts[-1] + tiling.side[axis] == size[axis]
        overlaps = [tiling.side[axis] + a - b for a, b in pairwise(starts)]
        assert min(overlaps, default=8) >= 8


def test_tiles_fade_smoothly() -> None:
    """A step of one between two tiles is spread over the band that they share."""
    tiling = Tiling(40, 72)
    tiles = torch.zeros(len(tiling), 40, 40, 1)
    tiles[1] = 1
    image = blend(tiles, tiling)
    assert 0 < float(image.diff(dim=1).max()) < 0.25
    assert float(image.diff(dim=0).abs().max()) < 1e-6


def test_rendering_at_any_size() -> None:
    tiled = random_tiled(21, 30)
    own = tiled.render()
    double = tiled.render((41, 59))
    assert torch.allclose(double[::2, ::2], own, atol=1e-5)
    assert tiled.render((1, 3)).shape == (1, 3, 3)
    assert torch.allclose(tiled.render((21, 30)), own)
    with pytest.raises(ValueError, match="height and a width"):
        tiled.render((0, 3))


def test_a_photograph_becomes_tiles(tmp_path: Path) -> None:
    image = load_photograph()[:64, :72]
    seen: list[FitProgress] = []
    fit = FitConfig(steps=60, pixels=200, target_psnr=None, check_every=20, slots=3)
    assert estimate(image, None, fit) > 0
    tiled = fit_tiles(image, None, fit, on_progress=seen.append)
    assert [round(p.done, 2) for p in seen] == [0.25, 0.5, 0.75, 0.83, 0.92, 1.0]
    assert seen[0].left > 0 == seen[-1].left
    wanted = image.float() / 127.5 - 1
    error = float((tiled.render() - wanted).square().mean())
    assert error < 4 * 10**-2.2
    assert tiled.about["psnr"] == pytest.approx(10 * math.log10(4 / error), abs=0.01)
    assert tiled.about["worst_tile_psnr"] <= tiled.about["psnr"] + 3
    save_tiled(tmp_path / "a.safetensors", tiled)
    again = load_tiled(tmp_path / "a.safetensors")
    assert again.about == {**tiled.about, "inr": tiled.config.to_dict() | {
        "widths": [48, 48], "value_range": [-1.0, 1.0]}}  # fmt: skip
    assert torch.equal(again.render(), tiled.render())
    assert is_tiled(tmp_path / "a.safetensors")


def test_a_stopped_fit_goes_on(tmp_path: Path) -> None:
    image = load_photograph()[:40, :90]
    fit = FitConfig(steps=6, target_psnr=None, check_every=3, slots=1)
    whole = fit_tiles(image, SMALL, fit)

    def stop(progress: FitProgress) -> None:
        if progress.done > 0.6:
            raise KeyboardInterrupt

    parts = tmp_path / "a.part"
    with pytest.raises(KeyboardInterrupt):
        fit_tiles(image, SMALL, fit, parts=parts, on_progress=stop)
    with pytest.raises(WeightsError, match="another fit"):
        fit_tiles(image, SMALL, fit, seed=1, parts=parts)
    found = fit_tiles(image, SMALL, fit, parts=parts)
    assert torch.equal(found.render(), whole.render())
    assert not parts.exists()


def test_seams_are_measured() -> None:
    tiling = Tiling(72, 72)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(72, 72, 3, generator=generator)
    assert seam_ratio(image, tiling) == pytest.approx(1, abs=0.05)
    tiles = cut(0.1 * image, tiling) + torch.rand(4, 1, 1, 1, generator=generator) * 4
    assert seam_ratio(blend(tiles, tiling), tiling) > 1.1
    with pytest.raises(ValueError, match="no seams"):
        seam_ratio(image[:40, :40], Tiling(40, 40))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 by 2"):
        Tiling(1, 5)
    with pytest.raises(ValueError, match="margin of at least 1"):
        Tiling(9, 9, margin=0)
    with pytest.raises(ValueError, match="takes 1 networks"):
        TiledInr(SMALL, Tiling(9, 9), initial_params(SMALL.build(), 0, [0, 1]))
    with pytest.raises(ValueError, match=r"\[H, W, C\]"):
        fit_tiles(torch.zeros(9, 9), SMALL)
    with pytest.raises(ValueError, match="Expected an image"):
        cut(torch.zeros(3, 3, 1), Tiling(4, 4))
    save_inr(tmp_path / "one.safetensors", SMALL.build())
    assert not is_tiled(tmp_path / "one.safetensors")
    assert not is_tiled(tmp_path / "missing")
    with pytest.raises(WeightsError, match="not of a tiled inr"):
        load_tiled(tmp_path / "one.safetensors")
