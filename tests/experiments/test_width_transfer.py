"""Reading networks of widths that were never seen in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor

from experiments.inr import width_transfer
from experiments.inr.classifiers import EmbeddingMetanet, ProbedMetanet
from experiments.inr.runs import Normalizer
from gmn_opt.inr import FitConfig, InrSet, SirenConfig, fit_images
from gmn_opt.inr.editor import traced
from tasks.inr_data import load_split


def small(width: int) -> InrSet:
    images = load_split("mnist", "train", (5, 1, 1)).images[:, ::4, ::4].contiguous()
    return fit_images(images, SirenConfig(widths=(width, width)), FitConfig(10))


def doubled(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every neuron twice, what it says halved where it is read: the same function."""
    out = dict(params)
    for layer in (0, 1):
        for leaf in ("weight", "bias"):
            name = f"layers.{layer}.{leaf}"
            out[name] = out[name].repeat_interleave(2, 1)
        name = f"layers.{layer + 1}.weight"
        out[name] = out[name].repeat_interleave(2, 2) / 2
    return out


@pytest.mark.parametrize("probed", [False, True])
@pytest.mark.parametrize(("way", "same"), [("mean field", True), ("root", False), ("plain", False)])
def test_what_is_said_of_widened_networks(probed: bool, way: str, same: bool) -> None:
    networks = small(6)
    power, sizes = width_transfer.WAYS[way]
    normalizer = Normalizer(networks, power)
    graph = traced(networks.template())
    torch.manual_seed(0)
    model: EmbeddingMetanet
    if probed:
        model = ProbedMetanet(graph, 10, normalizer, places=9, sizes=sizes)
    else:
        model = EmbeddingMetanet(graph, 10, sizes=sizes)
    model = model.double().eval()
    params = {n: p.double() for n, p in networks.params.items()}
    wider = small(12)
    with torch.no_grad():
        before = model(normalizer(params))
        there = width_transfer.at_width(model, wider, normalizer)
        wide = there(doubled(params))
        after = model(wide)
    difference = float((after - before).abs().max())
    assert difference < 1e-9 if same else difference > 1e-6
    canonical = normalizer.back(normalizer(params))
    for name, tensor in there.back(wide).items():
        torch.testing.assert_close(tensor, doubled(canonical)[name])


def test_smoke(tmp_path: Path) -> None:
    inrs, out = tmp_path / "inrs", tmp_path / "out"
    names = "probes, mean field;drawn"
    given: dict[str, Any] = {
        "preset": "smoke",
        "inrs": inrs,
        "out": out,
        "classifiers": names,
        "threads": 1,
    }
    width_transfer.main(**given)
    first = json.loads((out / "result.json").read_text())
    assert first["runs"].keys() == {"probes, mean field", "drawn"}
    for runs in first["runs"].values():
        assert runs[0]["accuracy"].keys() == {"4", "8"}
    assert (out / "widths.png").stat().st_size > 1000
    width_transfer.main(**given, resume=True)
    assert json.loads((out / "result.json").read_text())["runs"] == first["runs"]
    with pytest.raises(typer.Exit):
        width_transfer.main(**{**given, "classifiers": "probes"})
