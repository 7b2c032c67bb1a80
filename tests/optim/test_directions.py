"""What the rule reads of a step: channels, and statistics that do not depend on scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmn_opt.metanet import blocked
from gmn_opt.optim.constants import layout_constants
from gmn_opt.optim.directions import (
    BLOCK_SCALARS,
    CHANNELS,
    DECAYS,
    MOMENTS,
    _make_constants,
    channels,
    statistics,
    update_moments,
)
from gmn_opt.optim.orthogonalize import orthogonalize_all
from tests.traced import random_tensors, traced


def test_channels_are_adam_directions_and_an_orthogonalized_one() -> None:
    graph = traced("cnn", contracted=True)[1]
    layout = blocked(graph)
    theta = layout.flatten(random_tensors(graph, seed=1))
    moments = torch.zeros(len(MOMENTS), theta.shape[-1], dtype=theta.dtype)
    seen = []
    for step in range(1, 4):
        seen.append(layout.flatten(random_tensors(graph, seed=1 + step)))
        moments = update_moments(layout, moments, seen[-1])
        values = channels(layout, theta, seen[-1], moments, step)
    fast, slow, second = (
        (1 - d) * (d**2 * seen[0] ** k + d * seen[1] ** k + seen[2] ** k) / (1 - d**3)
        for d, k in zip(DECAYS, (1, 1, 2), strict=True)
    )
    root = second.sqrt()
    ahead = DECAYS[0] * fast + (1 - DECAYS[0]) * seen[-1]
    expected = {"weight": theta, "gradient": seen[-1] / root, "fast": ahead / root}
    expected["slow"] = slow / root
    for name, value in expected.items():
        assert torch.allclose(values[CHANNELS.index(name)], value, rtol=1e-10), name
    parts = values[CHANNELS.index("orthogonal")].split(layout.edge_counts)
    made = [bool(part.any()) for part in parts]
    assert any(made)
    assert not all(made)
    for part, block in zip(parts, layout.blocks_of_flat(ahead), strict=True):
        if part.any():
            (damped,) = orthogonalize_all([block], damped=True)
            assert torch.allclose(part.view(block.shape), damped, atol=1e-12)


@pytest.mark.parametrize("case", ["cnn", "attention_packed", "stacked_experts"])
def test_numbers_are_the_same_whether_recorded_or_written_in_place(case: str) -> None:
    graph = traced(case, contracted=True)[1]
    layout = blocked(graph)
    theta, grad, *moments = (layout.flatten(random_tensors(graph, seed=s)) for s in range(5))
    before = torch.stack([*moments[:2], moments[2].square()], -2)

    def run(grad: Tensor) -> tuple[Tensor, Tensor]:
        after = update_moments(layout, before, grad)
        return after, channels(layout, theta, grad, after, 5)

    with torch.no_grad():
        in_place = run(grad)
        transformed = torch.func.vmap(run)(grad.unsqueeze(0))
    recorded = run(grad.clone().requires_grad_())
    for plain, other, mapped in zip(in_place, recorded, transformed, strict=True):
        assert other.requires_grad
        torch.testing.assert_close(plain, other.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(plain, mapped.squeeze(0), rtol=1e-12, atol=1e-12)


def test_statistics_are_finite_and_do_not_see_the_scale_of_the_loss() -> None:
    graph = traced("cnn_batch_norm", contracted=True)[1]
    layout = blocked(graph)
    theta, grad = (layout.flatten(random_tensors(graph, seed=s)) for s in (1, 2))
    found = []
    for factor in (1.0, 1e4):
        zeros = torch.zeros(len(MOMENTS), theta.shape[-1], dtype=theta.dtype)
        moments = update_moments(layout, zeros, factor * grad)
        found.append(statistics(layout, channels(layout, theta, factor * grad, moments, 1)))
    assert found[0].scalars.shape == (len(layout.blocks), BLOCK_SCALARS)
    assert torch.isfinite(found[0].scalars).all()
    assert torch.allclose(found[0].scalars, found[1].scalars, atol=1e-6)


def test_constants_are_made_once_and_for_every_dtype() -> None:
    layout = blocked(traced("cnn", contracted=True)[1])
    with torch.inference_mode():
        fine = layout_constants(layout, torch.zeros(1, dtype=torch.float64), _make_constants)
    again = layout_constants(layout, torch.ones(5, dtype=torch.float64), _make_constants)
    assert again is fine
    coarse = layout_constants(layout, torch.zeros(1), _make_constants)
    assert coarse.rates.dtype == torch.float32
    # what was made in inference mode can be used where gradients are recorded
    assert (torch.ones(1, requires_grad=True) * fine.rates).requires_grad
