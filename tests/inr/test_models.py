"""Configs, forward passes, files and foreign state dicts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from gmn_opt import trace
from gmn_opt.inr import (
    FourierConfig,
    GridConfig,
    InrConfig,
    PyramidConfig,
    Siren,
    SirenConfig,
    config_from_dict,
    coordinates,
    load_inr,
    psnr,
    read_inr,
    render,
    save_inr,
    siren_from_state_dict,
    stack,
    unstack,
)
from gmn_opt.weights import WeightsError

CONFIGS: list[InrConfig] = [
    SirenConfig(),
    SirenConfig(1, 2, (5, 7, 3), omega=11.0),
    FourierConfig(2, 3, (6, 4), frequencies=5),
    GridConfig(2, 3, (6,), resolution=4, channels=3),
    GridConfig(3, 1, (5,), resolution=3, channels=2),
    GridConfig(1, 1, (5,)),
    PyramidConfig(2, 3, (6,), resolutions=(2, 5), channels=3),
    PyramidConfig(1, 1, (5, 4), resolutions=(3, 4, 7), channels=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
class TestEveryKind:
    def test_batched_equals_one_by_one(self, config: InrConfig) -> None:
        inrs = [config.build().double() for _ in range(3)]
        params = stack(inrs)
        shared = torch.rand(9, config.inputs, dtype=torch.float64) * 2 - 1
        own = torch.rand(3, 9, config.inputs, dtype=torch.float64) * 2 - 1
        for points in (shared, own):
            got = inrs[0].batched(params, points)
            for i in range(3):
                x = points if points.dim() == 2 else points[i]
                want = functional_call(inrs[0], {n: p[i] for n, p in params.items()}, (x,))
                assert torch.allclose(got[i], want, rtol=1e-12, atol=1e-13)

    def test_render_equals_a_loop_over_pixels(self, config: InrConfig) -> None:
        inr = config.build().double()
        size = (4, 3, 2)[: config.inputs]
        image = render(inr, size)
        assert image.shape == (*size, config.outputs)
        for i, place in enumerate(torch.cartesian_prod(*(torch.arange(n) for n in size))):
            at = tuple(place.reshape(-1).tolist())
            x = [-1 + 2 * k / (n - 1) for k, n in zip(at, size, strict=True)]
            value = inr(torch.tensor(x, dtype=torch.float64))
            assert torch.allclose(image[at], value), i

    def test_files_keep_everything(self, config: InrConfig, tmp_path: Path) -> None:
        inr = config.build()
        save_inr(tmp_path / "x.safetensors", inr, {"size": [28, 28]})
        again, about = read_inr(tmp_path / "x.safetensors")
        assert again.config == config
        assert about == {"size": [28, 28]}
        x = torch.rand(5, config.inputs)
        assert torch.equal(again(x), inr(x))

    def test_hidden_neurons_are_free(self, config: InrConfig) -> None:
        inr = config.build()
        graph = trace(inr, torch.rand(5, config.inputs))
        free = len(config.widths) + isinstance(config, GridConfig)
        if isinstance(config, PyramidConfig):
            free += len(config.resolutions)  # features of every grid
        assert len(graph.spaces) == free
        sym = graph.random_symmetry(torch.Generator().manual_seed(1))
        inr.double()
        params = {n: p.unsqueeze(0) for n, p in inr.named_parameters()}
        moved = graph.permute(params, sym)
        assert torch.allclose(render(inr, 6, moved), render(inr, 6, params), atol=1e-12)

    def test_configs_as_values(self, config: InrConfig) -> None:
        assert config_from_dict(config.to_dict()) == config
        inr = config.build(torch.Generator().manual_seed(3))
        same = config.build(torch.Generator().manual_seed(3))
        assert all(torch.equal(a, b) for a, b in zip(inr.parameters(), same.parameters(),
                                                     strict=True))  # fmt: skip


def test_siren_initialization() -> None:
    inr = Siren(SirenConfig(2, 1, (400, 400), omega=20.0))
    for i, bound in ((0, 1 / 2), (1, math.sqrt(6 / 400) / 20)):
        weight = inr.layers[i].weight
        assert isinstance(weight, Tensor)
        weight = weight.detach()
        assert float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_hidden_activations_are_what_the_paper_says() -> None:
    """Arguments of the sines behind the first have a standard deviation of about 1."""
    inr = Siren(SirenConfig(2, 1, (256, 256, 256)))
    x = coordinates(24)
    for i in range(3):
        z = 30 * inr.layers[i](x)
        if i:
            assert 0.8 < float(z.detach().std()) < 2.2
        x = torch.sin(z)


def test_coordinates() -> None:
    points = coordinates((2, 3))
    assert points.tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    assert coordinates(1).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="needs 2 positive sizes"):
        coordinates((4, 0))


def test_psnr_by_hand() -> None:
    a = torch.zeros(2, 4, 4, 1)
    b = a + torch.tensor([0.2, 0.0]).view(2, 1, 1, 1)
    assert psnr(a, b).tolist() == pytest.approx([20.0, 120.0], rel=1e-5)


def test_render_is_differentiable_and_takes_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    inr = Siren()
    params = {n: p.repeat(3, *[1] * p.dim()).requires_grad_() for n, p in stack([inr]).items()}
    params = {n: p.squeeze(1) for n, p in params.items()}
    whole = render(inr, 7, params)
    (gradient,) = torch.autograd.grad(whole.sum(), params["layers.0.weight"])
    assert gradient.abs().sum() > 0
    monkeypatch.setattr("gmn_opt.inr.rendering.POINTS_AT_ONCE", 10)
    with torch.no_grad():
        assert torch.allclose(render(inr, 7, params), whole, atol=1e-6)
        assert render(inr, 7, {n: p[:0] for n, p in params.items()}).shape == (0, 7, 7, 1)


def test_unstack() -> None:
    inrs = [Siren() for _ in range(3)]
    x = torch.rand(4, 2)
    assert torch.equal(unstack(inrs[0], stack(inrs), 2)(x), inrs[2](x))
    with pytest.raises(ValueError, match="INRs of one config"):
        stack([Siren(), Siren(SirenConfig(widths=(4,)))])


def _theirs(kind: str) -> nn.Module:
    layers = [nn.Linear(2, 8), nn.Linear(8, 5), nn.Linear(5, 1)]
    if kind == "sequence":
        return nn.Sequential(*layers)
    if kind == "nested":  # net.0.linear.weight, ..., net.2.weight
        first = [nn.ModuleDict({"linear": x}) for x in layers[:2]]
        return nn.ModuleDict({"net": nn.ModuleList([*first, layers[2]])})
    return nn.ModuleDict({"net": nn.ModuleList(layers[:2]), "last_layer": layers[2]})


@pytest.mark.parametrize("kind", ["sequence", "nested", "last"])
@pytest.mark.parametrize("from_file", [False, True])
def test_state_dicts_from_elsewhere(kind: str, from_file: bool, tmp_path: Path) -> None:
    theirs = _theirs(kind)
    state = theirs.state_dict()
    if from_file:
        save_file(state, tmp_path / "x.safetensors")
        inr = load_inr(tmp_path / "x.safetensors", omega=10.0, value_range=(0.0, 1.0))
    else:
        inr = siren_from_state_dict(state, omega=10.0, value_range=(0.0, 1.0))
    assert inr.config == SirenConfig(2, 1, (8, 5), (0.0, 1.0), 10.0)
    x = points = torch.rand(6, 2)
    layers = [m for m in theirs.modules() if isinstance(m, nn.Linear)]
    for layer in layers[:-1]:
        x = torch.sin(10.0 * layer(x))
    assert torch.allclose(inr(points), layers[-1](x), atol=1e-6)


def test_more_than_ten_layers_keep_their_order() -> None:
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(12)))
    state = dict(sorted(deep.state_dict().items()))  # as safetensors sorts them: 0, 1, 10, 11, 2
    read = siren_from_state_dict(state).state_dict()
    assert torch.equal(read["layers.2.weight"], state["2.weight"])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (nn.Conv2d(1, 2, 3).state_dict(), "neither a weight"),
        (nn.Linear(2, 2).state_dict(), "neither a weight|a single layer"),
        (nn.Sequential(nn.Linear(2, 2)).state_dict(), "a single layer"),
        (nn.Sequential(nn.Linear(2, 2, bias=False)).state_dict(), "have only one"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1)).state_dict(), "the one before"),
        ({"a.weight": torch.ones(2, 2), "a.bias": torch.ones(3)}, "does not fit"),
        ({"a.weight": torch.ones(2, 2, dtype=torch.int64)}, "no finite floating-point"),
        ({"a.weight": torch.full((2, 2), math.nan)}, "no finite floating-point"),
        ({"epoch": 3}, "is int, not a tensor"),
        ({}, "there are no layers"),
    ],
)
def test_what_is_no_siren(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        siren_from_state_dict(state)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_inr(whole, Siren())
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    torch.save(Siren().state_dict(), tmp_path / "pickle.safetensors")
    save_file(nn.Conv2d(1, 2, 3).state_dict(), tmp_path / "conv.safetensors")
    for name, message in (
        ("cut", "cut off or damaged"),
        ("pickle", "Only safetensors are read"),
        ("conv", "conv.safetensors: This state dict is no SIREN"),
        ("none", "There is no file"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_inr(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SirenConfig(widths=()), "at least one hidden layer|needs at least one"),
        (lambda: SirenConfig(inputs=0), "positive width"),
        (lambda: SirenConfig(omega=0.0), "omega must be positive"),
        (lambda: SirenConfig(value_range=(1.0, 0.0)), "black < white"),
        (lambda: FourierConfig(frequencies=0), "at least one frequency"),
        (lambda: GridConfig(resolution=1), "at least two points"),
        (lambda: PyramidConfig(resolutions=(1, 4)), "at least two points"),
        (lambda: config_from_dict({"family": "nerf"}), "nerf.*'family' is one of"),
        (
            lambda: config_from_dict({"family": "siren", "hidden": 3}),
            "hidden.* of SirenConfig",
        ),
        (lambda: render(Siren(), 4, stack([Siren(SirenConfig(widths=(4, 4)))])), "expected shape"),
        (lambda: render(Siren(), 4, {"a": torch.ones(1, 2)}), "missing .*unexpected"),
    ],
)
def test_refusals(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
