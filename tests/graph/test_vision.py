"""Models of torchvision and timm: the spaces that can be derived by hand are found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
from tests.vision_cases import VISION, has

BY_NAME = {c.name: c for c in VISION}


@cache
def graph_of(name: str) -> ParameterGraph:
    case = BY_NAME[name]
    if not has(case.library):
        pytest.skip(f"{case.library} is not installed, or torchvision is not")
    model, inputs = case.meta()
    return trace(model, *inputs)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2", "swin_v2_t"])
def test_spaces_by_hand(name: str) -> None:
    assert len(graph_of(name).spaces) == BY_NAME[name].spaces


@pytest.mark.slow
@pytest.mark.parametrize("name", [c.name for c in VISION if c.spaces is not None])
def test_no_model_has_fewer_spaces_than_by_hand(name: str) -> None:
    assert len(graph_of(name).spaces) == BY_NAME[name].spaces


def _basic(width: int, stride: int) -> nn.Module:
    """A residual block, as both libraries have it, with frozen numbers."""
    from tests.graph.test_buffers import FrozenNorm

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inside = width // stride
            self.body = nn.Sequential(
                nn.Conv2d(inside, width, 3, stride, 1, bias=False), FrozenNorm(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, 1, 1, bias=False), FrozenNorm(width),
            )  # fmt: skip
            self.short: nn.Module = nn.Identity()
            if stride > 1:
                short = nn.Conv2d(inside, width, 1, stride, bias=False)
                self.short = nn.Sequential(short, FrozenNorm(width))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.body(x) + self.short(x))

    return Block()


def test_a_frozen_resnet_has_all_its_spaces() -> None:
    """ResNet-18 with frozen norms, as detection models have it: 4 streams, 8 hidden layers."""
    make: list[Callable[[], nn.Module]] = [
        partial(_basic, w, s) for w, s in
        [(4, 1), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (32, 2), (32, 1)]
    ]  # fmt: skip
    stem = nn.Conv2d(3, 4, 3, padding=1)
    model = nn.Sequential(stem, *(m() for m in make), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(32, 5))  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    graph = trace(model.eval(), x, verify=False)
    assert len(graph.spaces) == 12
    assert graph.verify(model, x) < 1e-9
