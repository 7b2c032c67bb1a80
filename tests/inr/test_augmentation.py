"""What is done to the weights of INRs shows in their images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gmn_opt.inr import FitConfig, InrSet, SirenConfig, canonical, fit_images, render, stack
from gmn_opt.inr.augmentation import (
    SYMMETRIES,
    Moves,
    moved,
    random_tones,
    toned,
    toned_images,
    turned,
    turned_images,
)
from tasks.inr_data import load_split


def small(count: int = 4) -> InrSet:
    images = load_split("mnist", "train", (count, 1, 1)).images[:, ::2, ::2].contiguous()
    return fit_images(images, SirenConfig(widths=(8, 8)), FitConfig(40))


@pytest.mark.parametrize(
    ("moves", "move"),
    [
        (Moves(0, 0, 0, mirror=False), lambda image: image),
        (Moves(0, 0, 0, mirror=True), None),
    ],
)
def test_moved_networks_show_moved_images(
    moves: Moves, move: Callable[[torch.Tensor], torch.Tensor] | None
) -> None:
    data = small(4)
    params = {n: p.double() for n, p in data.params.items()}
    inr = data.template().double()
    before, after = render(inr, 9, params), render(inr, 9, moved(params, moves))
    for a, b in zip(before, after, strict=True):
        if move is None:
            assert torch.allclose(b, a, atol=1e-10) or torch.allclose(b, a.flip(1), atol=1e-10)
        else:
            assert torch.allclose(b, move(a), atol=1e-10)


def test_toned_networks_show_toned_images() -> None:
    generator = torch.Generator().manual_seed(0)
    config = SirenConfig(2, 3, (6, 5))
    params = stack([config.build(generator) for _ in range(5)])
    inr = config.build()
    mix, shift = random_tones(5, 3, 0.4, generator=generator)
    assert len(mix.argmax(-1).unique(dim=0)) > 1  # channels are exchanged
    whites = torch.ones(5, 1, 1, 3)
    for extreme in (whites, -whites):
        assert toned_images(extreme, mix, shift).abs().max() <= 1 + 1e-6
    want = toned_images(render(inr, 6, params), mix, shift)
    assert torch.allclose(render(inr, 6, toned(params, mix, shift)), want, atol=1e-5)
    with pytest.raises(ValueError, match="factor in"):
        random_tones(1, 3, 1.5)


def test_turned_networks_show_turned_images() -> None:
    data = small(SYMMETRIES)
    params = {n: p.double() for n, p in data.params.items()}
    inr, which = data.template().double(), torch.arange(SYMMETRIES)
    before, after = render(inr, 9, params), render(inr, 9, turned(params, which))
    for i in range(SYMMETRIES):
        want = turned_images(before[i : i + 1], i)[0]
        assert torch.allclose(after[i], want, atol=1e-10)
        for other in range(i):
            assert not torch.allclose(turned_images(before[i : i + 1], other)[0], want)
    assert torch.equal(turned(params, which)["layers.0.bias"], params["layers.0.bias"])
    for number, shape in ((8, (1, 4, 4, 1)), (4, (1, 4, 5, 1))):
        with pytest.raises(ValueError, match="8 symmetries of a square"):
            turned_images(torch.zeros(shape), number)


def test_moves_by_their_formula() -> None:
    """A turned, zoomed and shifted network at x is the network at A x + t."""
    data = small(1)
    params = {n: p.double() for n, p in data.params.items()}
    after = moved(params, Moves(30, 0.2, 0.1), torch.Generator().manual_seed(0))
    weight, new = params["layers.0.weight"][0], after["layers.0.weight"][0]
    matrix = torch.linalg.lstsq(weight, new).solution
    offset = (after["layers.0.bias"][0] - params["layers.0.bias"][0]).unsqueeze(-1)
    shift = torch.linalg.lstsq(weight, offset).solution
    x = torch.rand(5, 2, dtype=torch.float64)
    inr = data.template().double()
    assert torch.allclose(
        inr.batched(after, x), inr.batched(params, x @ matrix.mT + shift.T), atol=1e-9
    )
    known = canonical(after, SirenConfig(widths=(8, 8)))
    assert torch.allclose(inr.batched(known, x), inr.batched(after, x), atol=1e-9)
