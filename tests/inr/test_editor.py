"""Weight editors: equivariance, strength, files, and the symmetries of the sine."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from gmn_opt.inr import (
    EditorConfig,
    FourierConfig,
    GridConfig,
    InrConfig,
    Params,
    Siren,
    SirenConfig,
    WeightEditor,
    canonical,
    load_editor,
    render,
    save_editor,
    save_inr,
    shipped_editors,
    stack,
)
from gmn_opt.inr.editor_files import editor_name
from gmn_opt.inr.edits import EDITS, edited
from gmn_opt.inr.probing import values_and_slopes
from gmn_opt.metanet import blocked
from gmn_opt.weights import WeightsError, card, load, save
from gmn_opt.weights.shipped import path_of

TINY = EditorConfig(hidden=8, edge_hidden=4, layers=2)
ROUNDS = replace(TINY, rounds=2, grid=6, vision=3)
SIREN = SirenConfig(2, 1, (6, 5))


#: What an editor knows beside the weights.
KINDS = {"weights": TINY, "probes": replace(TINY, probes=4), "rounds": ROUNDS,
         "rounds and probes": replace(ROUNDS, probes=4)}  # fmt: skip
kinds = pytest.mark.parametrize("sizes", KINDS.values(), ids=KINDS)


def editor_for(config: InrConfig, sizes: EditorConfig = TINY) -> WeightEditor:
    """An editor whose readout is not zero, as if trained."""
    editor = WeightEditor(config, sizes).double()
    with torch.no_grad():
        for p in (*editor.metanet.parameters(), *editor.rows.parameters()):
            # rounding errors grow from round to round
            p.add_(torch.randn_like(p) / (8 if sizes.rounds else 4))
    return editor


def some(config: InrConfig, count: int = 3) -> Params:
    return {n: p.double() for n, p in stack([config.build() for _ in range(count)]).items()}


def turned(params: Params, config: SirenConfig) -> Params:
    """The same functions under random sign flips and half turns of every hidden neuron."""
    out = dict(params)
    for i, width in enumerate(config.widths):
        count = len(out["layers.0.bias"])
        sign = torch.randint(2, (count, width)).double() * 2 - 1
        turns = torch.randint(-4, 5, (count, width)).double()
        out[f"layers.{i}.weight"] = out[f"layers.{i}.weight"] * sign.unsqueeze(-1)
        bias = out[f"layers.{i}.bias"] * sign + turns * (math.pi / config.omega)
        out[f"layers.{i}.bias"] = bias
        outgoing = sign * (1 - 2 * turns.remainder(2))
        name = f"layers.{i + 1}.weight"
        out[name] = out[name] * outgoing.unsqueeze(-2)
    return out


def close(a: Params, b: Params, tolerance: float = 1e-10) -> bool:
    return all(torch.allclose(a[n], b[n], atol=tolerance, rtol=tolerance) for n in a)


class TestCanonical:
    def test_the_function_stays(self) -> None:
        params = some(SIREN)
        inr, moved = SIREN.build().double(), canonical(params, SIREN)
        assert torch.allclose(render(inr, 9, moved), render(inr, 9, params), atol=1e-11)

    def test_phases(self) -> None:
        moved = canonical(some(SIREN), SIREN)
        for i in range(2):
            phase = moved[f"layers.{i}.bias"] * SIREN.omega
            assert float(phase.min()) >= 0
            assert float(phase.max()) <= math.pi / 2 + 1e-12

    def test_one_for_all(self) -> None:
        params = some(SIREN)
        other = turned(params, SIREN)
        inr = SIREN.build().double()
        assert torch.allclose(render(inr, 9, other), render(inr, 9, params), atol=1e-11)
        assert close(canonical(other, SIREN), canonical(params, SIREN))
        assert close(canonical(canonical(params, SIREN), SIREN), canonical(params, SIREN))


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        *[(SIREN, KINDS[name]) for name in KINDS],
        *[(SirenConfig(2, 3, (6, 5, 4)), KINDS[name]) for name in KINDS],
        *[(FourierConfig(2, 1, (5, 4), frequencies=3), KINDS[n]) for n in ("weights", "rounds")],
        *[
            (GridConfig(2, 1, (5,), resolution=3, channels=2), KINDS[n])
            for n in ("weights", "rounds")
        ],
    ],
)
def test_equivariance(config: InrConfig, sizes: EditorConfig) -> None:
    """edit(permute(θ)) = permute(edit(θ)), and the picture is the same."""
    editor, params = editor_for(config, sizes), some(config)
    editor.measure(params)
    inr = config.build().double()
    with torch.no_grad():
        done = editor(params)
        assert not close(done, editor.prepare(params, config), 1e-4)
        for seed in range(3):
            sym = editor.graph.random_symmetry(torch.Generator().manual_seed(seed))
            moved = editor(editor.graph.permute(params, sym))
            assert close(moved, editor.graph.permute(done, sym))
            assert torch.allclose(render(inr, 6, moved), render(inr, 6, done), atol=1e-10)


@kinds
def test_symmetries_of_the_sine_change_nothing(sizes: EditorConfig) -> None:
    editor, params = editor_for(SIREN, sizes), some(SIREN)
    with torch.no_grad():
        assert close(editor(turned(params, SIREN)), editor(params), 1e-9)


@kinds
def test_strength_interpolates(sizes: EditorConfig) -> None:
    editor, params = editor_for(SIREN, sizes), some(SIREN)
    inr = SIREN.build().double()
    with torch.no_grad():
        none, half, whole = (editor(params, strength=s) for s in (0.0, 0.5, 1.0))
    assert torch.allclose(render(inr, 6, none), render(inr, 6, params), atol=1e-11)
    for n in params:
        assert torch.allclose(half[n], (none[n] + whole[n]) / 2, atol=1e-12)


def test_the_edit_sets_in_smoothly() -> None:
    """Pictures at neighbouring strengths are near, and nearer the nearer the strengths."""
    editor, params = editor_for(SIREN, KINDS["probes"]), some(SIREN)
    inr = SIREN.build().double()
    with torch.no_grad():
        at = [render(inr, 6, editor(params, strength=s / 256)) for s in range(257)]

    def farthest(stride: int) -> float:
        return max(float((at[i + stride] - at[i]).abs().max()) for i in range(257 - stride))

    assert farthest(1) < farthest(32) / 10


@kinds
def test_batches_are_independent(sizes: EditorConfig) -> None:
    editor, params = editor_for(SIREN, sizes), some(SIREN)
    with torch.no_grad():
        done = editor(params)
        alone = editor({n: p[1:2] for n, p in params.items()})
        without = editor({n: p[1] for n, p in params.items()})
        twofold = editor({n: torch.stack([p, p]) for n, p in params.items()})
    assert close(alone, {n: p[1:2] for n, p in done.items()})
    assert close(without, {n: p[1] for n, p in done.items()})
    assert close(twofold, {n: torch.stack([p, p]) for n, p in done.items()})


@kinds
def test_other_widths_and_depths(sizes: EditorConfig) -> None:
    editor = editor_for(SIREN, sizes)
    for widths in ((9, 7), (4,), (5, 6, 7, 8)):
        config = SirenConfig(2, 1, widths)
        params = some(config)
        done = editor(params, config)
        assert {n: t.shape for n, t in done.items()} == {n: t.shape for n, t in params.items()}
    with pytest.raises(ValueError, match="was made for .* received an INR of"):
        editor(some(SirenConfig(2, 3, (6, 5))), SirenConfig(2, 3, (6, 5)))


@kinds
def test_one_inr(sizes: EditorConfig) -> None:
    editor, inr = editor_for(SIREN, sizes), Siren(SIREN).double()
    done = editor.edit(inr, 0.5)
    want = editor(stack([inr]), strength=0.5)
    assert all(torch.allclose(p, want[n][0]) for n, p in done.named_parameters())
    with pytest.raises(ValueError, match="Use an editor for such INRs"):
        editor.edit(Siren(SirenConfig(2, 3, (6, 5))))


@kinds
def test_it_learns_from_pixels(sizes: EditorConfig) -> None:
    """A few steps on one picture bring the rendered result nearer to the target."""
    torch.manual_seed(0)
    config = SirenConfig(2, 1, (8, 8))
    editor, params = WeightEditor(config, sizes), stack([config.build()])
    editor.measure(params)
    inr, losses = config.build(), []
    target = edited(render(inr, 8, params).detach().clamp(-1, 1), "invert")
    opt = torch.optim.Adam(editor.parameters(), lr=1e-2)
    for _ in range(40):
        loss = (render(inr, 8, editor(params)) - target).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in editor.parameters()
               if p.grad is not None)  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]


@kinds
def test_files(tmp_path: Path, sizes: EditorConfig) -> None:
    editor = editor_for(SIREN, sizes).float()
    editor.measure({n: p.float() for n, p in some(SIREN).items()})
    save_editor(tmp_path / "x.safetensors", editor, {"steps": 3})
    again = load_editor(tmp_path / "x.safetensors")
    params = {n: p.float() for n, p in some(SIREN).items()}
    with torch.no_grad():
        assert close(again(params), editor(params), 1e-5)
    assert not any(p.requires_grad for p in again.parameters())
    known = load(tmp_path / "x.safetensors", "inr editor")
    known.config["editor"]["rounds"] = -1
    save(tmp_path / "odd.safetensors", known)
    with pytest.raises(WeightsError, match="does not fit the inr editor of this gmn-opt"):
        load_editor(tmp_path / "odd.safetensors")
    save_inr(tmp_path / "inr.safetensors", Siren())
    with pytest.raises(WeightsError, match="holds weights of a inr, not"):
        load_editor(tmp_path / "inr.safetensors")


class TestEdits:
    @pytest.mark.parametrize("name", EDITS)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_all_keep_shape_and_range_and_do_something(self, name: str, channels: int) -> None:
        images = torch.rand(2, 28, 28, channels) * 2 - 1
        out = edited(images, name)
        assert out.shape == images.shape
        assert float(out.min()) >= -1
        assert float(out.max()) <= 1
        assert not torch.allclose(out, images, atol=0.05)

    def test_dilate_and_erode_by_neighbours(self) -> None:
        images = ((torch.rand(3, 9, 7, 1) * 255).round() / 127.5) - 1
        for name, sign in (("dilate", 1), ("erode", -1)):
            padded = torch.nn.functional.pad(sign * images.movedim(-1, 1), (1, 1, 1, 1), value=-9)
            want = sign * torch.nn.functional.max_pool2d(padded, 3, 1).movedim(1, -1)
            assert torch.allclose(edited(images, name), want, atol=1e-6)

    def test_contrast_is_the_published_protocol(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        lightness, a, b = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
        lightness = cv2.createCLAHE(clipLimit=1.0, tileGridSize=(3, 3)).apply(lightness)
        want = cv2.cvtColor(cv2.merge([lightness, a, b]), cv2.COLOR_LAB2RGB)
        got = edited(torch.from_numpy(image).double() / 127.5 - 1, "contrast")
        assert np.array_equal(((got + 1) * 127.5).round().numpy(), want)

    def test_any_leading_dimensions(self) -> None:
        images = torch.rand(2, 3, 8, 8, 1) * 2 - 1
        assert torch.equal(edited(images, "blur")[1, 2], edited(images[1, 2], "blur"))
        assert edited(images[:0], "blur").shape == (0, 3, 8, 8, 1)

    @pytest.mark.parametrize(
        ("images", "name", "message"),
        [
            (torch.zeros(4, 4, 1), "melt", "no edit 'melt'; there are dilate"),
            (torch.zeros(4, 4, 2), "blur", "received torch.float32"),
            (torch.zeros(4, 4, 1, dtype=torch.uint8), "blur", "received torch.uint8"),
        ],
    )
    def test_refusals(self, images: Tensor, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            edited(images, name)


class TestProbes:
    def test_nodes_hear_what_the_network_says(self) -> None:
        editor, params = editor_for(SIREN, replace(TINY, probes=9)), some(SIREN)
        assert editor.probes is not None
        with torch.no_grad():
            heard = editor.probes(params, SIREN, editor.graph)
            shown = SIREN.build().double().batched(params, editor.probes.places)
        assert heard.shape == (3, sum(blocked(editor.graph).group_sizes), 18)
        groups = [g for g in editor.graph.groups if g.role == "output"]
        (at,) = (heard.split(blocked(editor.graph).group_sizes, -2)[g.id] for g in groups)
        assert torch.allclose(at[..., :9], shown.mT)

    def test_slopes_are_derivatives(self) -> None:
        config = SirenConfig(2, 3, (5, 4))
        params, places = some(config), torch.rand(6, 2).double()
        values, slopes = values_and_slopes(params, places, config.omega)
        inr = config.build().double()
        assert torch.allclose(values[-1], inr.batched(params, places))
        for layer, factor in ((0, config.omega), (1, config.omega), (2, 1.0)):
            bias = params[f"layers.{layer}.bias"]

            def shown(b: Tensor, name: str = f"layers.{layer}.bias") -> Tensor:
                return inr.batched({**params, name: b}, places)

            (all_pairs,) = torch.autograd.functional.jacobian(shown, (bias,))
            # [N, P, outputs, N, width], of which networks know only themselves
            own = all_pairs.diagonal(dim1=0, dim2=3).permute(3, 1, 0, 2)
            assert torch.allclose(slopes[layer] * factor, own, atol=1e-10)

    def test_places(self) -> None:
        editor = WeightEditor(SIREN, replace(TINY, probes=11))
        assert editor.probes is not None
        assert editor.probes.places.shape == (11, 2)
        assert len(editor.probes.places[:9].unique(dim=0)) == 9

    def test_of_sirens_alone(self) -> None:
        with pytest.raises(ValueError, match="Use an editor with probes=0"):
            WeightEditor(FourierConfig(2, 1, (5,), frequencies=2), replace(TINY, probes=4))


@pytest.mark.parametrize("name", shipped_editors())
def test_what_ships(name: str) -> None:
    """Every shipped editor fits this version, is the one of its card, and is of use."""
    facts, path = card(name), path_of(name)
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    editor = load_editor(name)
    assert name == editor_name(editor.config.edit, editor.inr.outputs)
    results = facts["results"]
    assert results["test_mse"] < results["identity"]
    assert results["floor"] < results["identity"]
    params = stack([editor.inr.build()])
    done = editor(params)
    assert all(bool(p.isfinite().all()) for p in done.values())
    assert not close(done, editor.prepare(params, editor.inr), 1e-4)
