"""Fitting many INRs at once, and the folders they are kept in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from gmn_opt.data import load_bundled
from gmn_opt.inr import (
    FitConfig,
    FourierConfig,
    InrSet,
    SirenConfig,
    coordinates,
    fit_batch,
    fit_images,
    load_inr_set,
    psnr,
    render,
)
from gmn_opt.inr import sets as inr_sets
from gmn_opt.inr.fitting import as_targets, initial_params, supersampled
from gmn_opt.weights import WeightsError

SMALL = SirenConfig(widths=(8, 8))


def digits(count: int) -> Tensor:
    return load_bundled("mnist").train_images[:count, ::2, ::2].contiguous()


def test_the_same_as_torch_adam_on_one_network() -> None:
    """All pixels, one image: against torch.optim.Adam with a cosine schedule."""
    images, fit = digits(2), FitConfig(20, pixels=0, target_psnr=None, check_every=7, slots=2)
    found = fit_batch(images, SMALL, fit, seed=3)
    inr = SMALL.build()
    inr.load_state_dict({n: p[0] for n, p in initial_params(inr, 3, [1]).items()})
    opt = torch.optim.Adam(inr.parameters(), lr=fit.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, fit.steps)
    target = (images[1].float() / 127.5 - 1).reshape(-1, 1)
    for _ in range(fit.steps):
        opt.zero_grad()
        (inr(coordinates(14)) - target).square().mean().backward()
        opt.step()
        schedule.step()
    for name, p in inr.named_parameters():
        assert torch.allclose(found.params[name][1], p, atol=1e-4)
    assert float(found.psnr[1]) == pytest.approx(
        float(psnr(render(inr, 14), target.view(14, 14, 1)).detach()), abs=0.02
    )


def test_company_does_not_matter() -> None:
    images = digits(5)
    settings: dict[str, Any] = {"steps": 60, "pixels": 40, "target_psnr": 11.0, "check_every": 10}
    together = fit_batch(images, SMALL, FitConfig(**settings, slots=5), seed=1)
    few = fit_batch(images, SMALL, FitConfig(**settings, slots=2), seed=1)
    alone = fit_batch(images[3:4], SMALL, FitConfig(**settings), seed=1, keys=[3])
    assert len(together.steps.unique()) > 1  # some stop before others
    assert torch.equal(together.steps, few.steps)
    for name, p in together.params.items():
        assert torch.allclose(few.params[name], p, atol=1e-4)
        assert torch.allclose(alone.params[name][0], p[3], atol=1e-4)


def test_stops_at_the_psnr_it_reports() -> None:
    images = digits(4)
    fit = FitConfig(400, pixels=0, target_psnr=24.0, check_every=10, slots=3)
    found = fit_batch(images, SirenConfig(), fit)
    inr = found.config.build()
    shown = render(inr, 14, found.params)
    got = psnr(shown, (images.float() / 127.5 - 1).unsqueeze(-1))
    assert torch.allclose(got, found.psnr, atol=1e-2)
    assert float(got.min()) >= 24.0
    assert int(found.steps.max()) < 400
    one = functional_call(inr, {n: p[2] for n, p in found.params.items()}, (coordinates(14),))
    assert torch.allclose(one.view(14, 14, 1), shown[2], atol=1e-5)


def test_other_kinds_and_colour() -> None:
    images = torch.randint(256, (2, 6, 5, 3), dtype=torch.uint8)
    fit = FitConfig(30, check_every=15, pixels=8)
    found = fit_batch(images, FourierConfig(2, 3, (8,), frequencies=4), fit)
    assert found.params["layers.0.weight"].shape == (2, 8, 8)
    assert found.steps.tolist() == [30, 30]


def test_initializations_are_independent() -> None:
    params = initial_params(SMALL.build(), 0, [0, 1, 0])
    weight = params["layers.1.weight"]
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], initial_params(SMALL.build(), 1, [0])["layers.1.weight"][0])


QUICK = FitConfig(10, pixels=20, check_every=5)


def make(folder: Path | None, resume: bool = False, seed: int = 0) -> InrSet:
    return fit_images(digits(5), SMALL, QUICK, labels=torch.arange(5), out=folder, shard=2,
                      resume=resume, seed=seed, about={"data": "mnist"})  # fmt: skip


def test_a_set_comes_back_from_its_folder(tmp_path: Path) -> None:
    made = make(tmp_path / "set")
    again = load_inr_set(tmp_path / "set")
    assert len(again) == 5
    assert again.config == SMALL
    assert list(again.params) == [n for n, _ in again.template().named_parameters()]
    assert again.labels is not None
    assert torch.equal(again.labels, torch.arange(5))
    assert torch.equal(again.images, digits(5))
    for name, p in make(None).params.items():
        assert torch.equal(made.params[name], p)
        assert torch.equal(again.params[name], p)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["target_range"] == [-1.0, 1.0]
    assert [s["count"] for s in manifest["shards"]] == [2, 2, 1]
    assert float(again.targets().min()) == -1.0


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = make(None), []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["keys"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit_batch(*args, **kwargs)

    monkeypatch.setattr(inr_sets, "fit_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    with pytest.raises(WeightsError, match="holds 2 of 5 INRs"):
        load_inr_set(tmp_path)
    with pytest.raises(ValueError, match="holds a set of INRs already"):
        make(tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        make(tmp_path, resume=True, seed=1)
    again = make(tmp_path, resume=True)
    assert calls == [range(2), range(2, 4), range(2, 4), range(4, 5)]
    for name, p in whole.params.items():
        assert torch.equal(again.params[name], p)


def test_damaged_sets(tmp_path: Path) -> None:
    make(tmp_path)
    shard = tmp_path / "params-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged: its sha256"):
        load_inr_set(tmp_path)
    shard.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        load_inr_set(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(WeightsError, match="is damaged"):
        load_inr_set(tmp_path)
    with pytest.raises(WeightsError, match="There is no set of INRs"):
        load_inr_set(tmp_path / "none")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), "Expected images"),
        (torch.zeros(4, 4), "Expected images"),
        (torch.zeros(2, 0, 4), "Expected images"),
        (torch.zeros(2, 4, 4, dtype=torch.int64), "must be uint8 or floating"),
        (torch.full((2, 4, 4), torch.nan), "NaN or infinite"),
    ],
)
def test_images_that_cannot_be_fitted(images: Tensor, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fit_images(images, SMALL, QUICK, out=tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_divergence_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"diverged with lr=1e\+30"):
        fit_batch(digits(1), SMALL, FitConfig(10, lr=1e30, pixels=0))


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    here, there = (fit_batch(digits(3), SMALL, QUICK, device=d) for d in ("cpu", "cuda"))
    for name, p in here.params.items():
        assert torch.allclose(there.params[name], p, atol=1e-3)


def test_supersampling_keeps_the_pixels() -> None:
    pixels = 2 * torch.rand(2, 5, 7, 3, generator=torch.Generator().manual_seed(0)) - 1
    fine = supersampled(pixels, 3)
    assert fine.shape == (2, 13, 19, 3)
    assert torch.allclose(fine[:, ::3, ::3], pixels, atol=1e-5)
    assert pixels.min() <= fine.min() <= fine.max() <= pixels.max()
    assert torch.allclose(supersampled(pixels, 1), pixels, atol=1e-5)
    with pytest.raises(ValueError, match="received \\[5, 7, 3\\] and 2"):
        supersampled(pixels[0])
    with pytest.raises(ValueError, match="and 0"):
        supersampled(pixels, 0)


def test_fitted_between_pixels_there_are_no_waves() -> None:
    image = load_bundled("fashion_mnist").test_images[:1, 4:20, 4:20]
    config = SirenConfig()
    pixels = as_targets(image, config)
    fit = FitConfig(steps=200, target_psnr=None)
    wanted = supersampled(pixels, 4)
    errors = []
    for targets in (pixels, supersampled(pixels)):
        found = fit_batch(targets, config, fit)
        shown = render(config.build(), (61, 61), found.params)
        errors.append(float((shown - wanted).square().mean()))
    assert errors[1] < 0.5 * errors[0]
