"""Edits in several steps: gradients on parts of the pixels, and learning through them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmn_opt.inr import EditorConfig, Params, SirenConfig, WeightEditor, render, stack
from gmn_opt.inr.refining import ImagePredictor, pixels, towards

CONFIG = SirenConfig(2, 3, (5, 4))


def some(count: int = 2) -> Params:
    return {n: p.double() for n, p in stack([CONFIG.build() for _ in range(count)]).items()}


@pytest.mark.parametrize("size", [(2, 2), (28, 28), (5, 8), (7, 9)])
def test_four_phases_see_every_pixel_once(size: tuple[int, int]) -> None:
    parts = [pixels(size, phase) for phase in range(4, 8)]
    assert sorted(torch.cat(parts).tolist()) == list(range(size[0] * size[1]))
    assert max(map(len, parts)) <= (size[0] + 1) // 2 * ((size[1] + 1) // 2)


def test_gradients_are_those_of_the_error() -> None:
    inr, params, goal = CONFIG.build().double(), some(), torch.rand(2, 6, 6, 3).double()
    slopes, error = towards(inr, params, goal)
    assert torch.allclose(error, (render(inr, 6, params) - goal).square().mean((1, 2, 3)))
    name, at = "layers.1.weight", (1, 2, 3)
    for sign in (1, -1):
        moved = {n: p.clone() for n, p in params.items()}
        moved[name][at] += sign * 1e-6
        with torch.no_grad():
            _, other = towards(inr, moved, goal)
        difference = float(other[1] - error[1].detach()) / (sign * 1e-6)
        assert difference == pytest.approx(-2 * float(slopes[name][at].detach()), rel=1e-4)


def test_phases_add_up_to_the_gradient() -> None:
    inr, params, goal = CONFIG.build().double(), some(), torch.rand(2, 6, 6, 3).double()
    whole, error = towards(inr, params, goal)
    parts = [towards(inr, params, goal, phase=p) for p in range(4)]
    assert torch.allclose(error, torch.stack([e for _, e in parts]).mean(0))
    for name in whole:
        mean = torch.stack([s[name] for s, _ in parts]).mean(0)
        assert torch.allclose(mean, whole[name], atol=1e-13)


def test_nothing_is_recorded_without_need() -> None:
    inr, params, goal = CONFIG.build().double(), some(), torch.rand(2, 6, 6, 3).double()
    with torch.no_grad():
        slopes, error = towards(inr, params, goal)
    assert not error.requires_grad
    assert not any(s.requires_grad for s in slopes.values())
    assert not any(p.requires_grad for p in params.values())


def test_the_predictor_keeps_shapes_and_starts_near_the_image() -> None:
    images = torch.rand(3, 9, 7, 3)
    out = ImagePredictor(3, 8)(images)
    assert out.shape == images.shape
    assert 0 < (out - images).abs().max() < 0.5


def test_gradients_of_a_rendered_edit_by_finite_differences() -> None:
    """Through all rounds: the second derivatives of the INR included."""
    torch.manual_seed(0)
    editor = WeightEditor(CONFIG, EditorConfig(hidden=6, edge_hidden=3, layers=1, rounds=3, grid=6,
                                               vision=3)).double()  # fmt: skip
    params, inr = some(), CONFIG.build().double()
    editor.measure(params)
    with torch.no_grad():
        for p in editor.metanet.parameters():
            p.add_(torch.randn_like(p) / 4)
    target = torch.rand(2, 6, 6, 3).double()

    def loss() -> Tensor:
        return (render(inr, 6, editor(params)) - target).square().mean()

    loss().backward()
    assert editor.refinement is not None
    for learned in (
        editor.refinement.log_rates,
        editor.refinement.predictor.layers[0].weight,
        editor.metanet.edge_encoder.weight,
        editor.scale,
    ):
        assert isinstance(learned, Tensor)
        assert learned.grad is not None
        way = torch.randn_like(learned)
        values = []
        with torch.no_grad():
            for step in (1e-6, -1e-6):
                learned.add_(way, alpha=step)
                values.append(float(loss()))
                learned.add_(way, alpha=-step)
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(
            float((learned.grad * way).sum()), rel=1e-5
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": -1}, "whole numbers from 0 on"),
        ({"settle": -1}, "whole numbers from 0 on"),
        ({"places": 2}, "seen or not"),
        ({"rounds": 2, "grid": 1}, "at least 2 pixels and a channel"),
        ({"rounds": 2, "vision": 0}, "at least 2 pixels and a channel"),
    ],
)
def test_wrong_sizes(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EditorConfig(**wrong)  # type: ignore[arg-type]
