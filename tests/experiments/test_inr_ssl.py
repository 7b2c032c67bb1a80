"""Self-supervised embeddings of INRs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from experiments.inr import ssl as inr_ssl
from gmn_opt.inr import FitConfig, SirenConfig, fit_batch, render
from gmn_opt.inr.editor import traced


def test_waves_are_what_they_say() -> None:
    coefficients, signals = inr_ssl.waves(5, 9, torch.Generator().manual_seed(0))
    assert 0 <= float(coefficients.min()) <= float(coefficients.max()) <= inr_ssl.LARGEST
    a, b = coefficients[3].tolist()
    assert signals[3, 8] == pytest.approx(a * math.sin(b * math.pi), abs=1e-4)
    assert signals[3, 4] == pytest.approx(0.0, abs=1e-5)


def test_signals_are_fitted_as_images_are() -> None:
    _, signals = inr_ssl.waves(2, 64, torch.Generator().manual_seed(1))
    fit = FitConfig(steps=300, target_psnr=30.0)
    found = fit_batch(signals, inr_ssl.SIREN, fit)
    assert float(found.psnr.min()) >= 30.0
    inr = inr_ssl.SIREN.build()
    shown = render(inr, 64, found.params).squeeze(-1)
    peak = 2 * inr_ssl.LARGEST
    psnr = 10 * torch.log10(peak**2 / (shown - signals).square().mean(1))
    assert torch.allclose(psnr, found.psnr, atol=1e-2)


def test_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 inputs"):
        fit_batch(torch.zeros(1, 4, 4, 4), SirenConfig(3, 1, (8,)))


def test_info_nce_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    views = [F.normalize(v, dim=-1) for v in (first, second)]
    everyone = torch.cat(views)
    total = 0.0
    for own, other in (views, views[::-1]):
        for i in range(3):
            right = torch.exp(own[i] @ other[i] / 0.1)
            all_pairs = torch.exp(everyone @ own[i] / 0.1).sum() - math.exp(1 / 0.1)
            total -= float(torch.log(right / all_pairs)) / 6
    assert float(inr_ssl.info_nce(first, second, 0.1)) == pytest.approx(total, rel=1e-9)


def test_copies_are_noisy_and_masked() -> None:
    params = {"w": torch.full((50, 40, 10), 3.0)}
    budget = inr_ssl.Budget(noise=0.2, masked=0.7)
    copy = inr_ssl.disturbed(params, budget, torch.Generator().manual_seed(0))["w"]
    kept = copy[copy != 0]
    assert 1 - len(kept) / copy.numel() == pytest.approx(0.7, abs=0.02)
    assert float(kept.mean()) == pytest.approx(3.0, abs=0.02)
    assert float(kept.std()) == pytest.approx(0.2, abs=0.02)


def test_second_fits_are_other_networks_of_the_same_signals(tmp_path: Path) -> None:
    budget = inr_ssl.Budget((3, 2, 2), 32, 60, second_fits=True)
    sets = inr_ssl.data_sets(tmp_path, budget, False, torch.device("cpu"))
    (first, known), (again, same) = sets["train"], sets[inr_ssl.AGAIN]
    assert torch.equal(known, same)
    assert torch.equal(first.images, again.images)
    for name, p in first.params.items():
        assert not torch.allclose(p, again.params[name], atol=1e-2), name
    # and without them, the same networks are there alone
    plain = inr_ssl.Budget((3, 2, 2), 32, 60)
    sets = inr_ssl.data_sets(tmp_path, plain, False, torch.device("cpu"))
    assert list(sets) == list(inr_ssl.SPLITS)
    assert torch.equal(sets["train"][0].psnr, first.psnr)


def test_linear_error_of_a_linear_map_is_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 5, generator=generator)
    y = z @ torch.randn(5, 2, generator=generator) + 3
    error, each = inr_ssl.linear_error(z[:40], y[:40], z[40:], y[40:])
    assert error < 1e-9
    assert len(each) == 2
    # and it is judged on what it has not seen
    noisy = y + torch.randn(y.shape, generator=generator)
    assert inr_ssl.linear_error(z[:40], noisy[:40], z[40:], noisy[40:])[0] > 0.5


def test_embeddings_do_not_see_the_order_of_neurons() -> None:
    graph = traced(inr_ssl.SIREN.build())
    generator = torch.Generator().manual_seed(0)
    params = {
        n: torch.randn(2, *s, generator=generator, dtype=torch.float64)
        for n, s in graph.shapes.items()
    }
    symmetry = graph.random_symmetry(generator)
    moved = [graph.permute({n: p[i] for n, p in params.items()}, symmetry) for i in range(2)]
    stacked = {n: torch.stack([m[n] for m in moved]) for n in params}
    for name in ("gmn", "np_nfn", "statnn"):
        torch.manual_seed(0)
        encoder = inr_ssl.ENCODERS[name](graph).double().eval()
        assert torch.allclose(encoder(params), encoder(stacked), rtol=1e-8, atol=1e-9), name
        lengths = inr_ssl.embed(encoder, params, batch=1).norm(dim=-1)
        assert torch.allclose(lengths, torch.ones_like(lengths)), name


def test_the_experiment_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = inr_ssl.Budget((12, 4, 4), 16, 5, epochs=1, batch=6)
    monkeypatch.setitem(inr_ssl.PRESETS, "smoke", tiny)

    def run(seeds: int, resume: bool = False, settings: list[str] | None = None) -> dict[str, Any]:
        out = tmp_path / "out"
        inr_ssl.main(
            "smoke", out, tmp_path / "inrs", "gmn,flat_mlp", 0, seeds, settings, resume, "cpu"
        )
        record: dict[str, Any] = json.loads((out / "result.json").read_text())
        return record

    first, second = run(1), run(2, resume=True)
    for name in ("gmn", "flat_mlp"):
        assert [r["seed"] for r in second["runs"][name]] == [0, 1]
        assert second["runs"][name][0] == first["runs"][name][0]
    assert (tmp_path / "out" / "embedding.png").stat().st_size > 1000
    with pytest.raises(inr_ssl.typer.Exit):
        run(2, resume=True, settings=["noise=0.5"])
