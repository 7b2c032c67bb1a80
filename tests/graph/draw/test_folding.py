"""Equal layers are shown once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gmn_opt.graph import trace
from gmn_opt.graph.draw.folding import fold
from gmn_opt.graph.draw.layers import draw_layers
from tests.transformer_cases import HUB_BY_NAME


class Stack(nn.Module):
    """Residual blocks; those of another width differ from the others."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, n), nn.ReLU(), nn.Linear(n, 6)) for n in widths
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("widths", "runs"),
    [
        ((5,) * 7, ["blocks.0 … 6  × 7"]),
        ((5, 5, 5, 4, 5, 5, 5, 5), ["blocks.0 … 2  × 3", "blocks.4 … 7  × 4"]),
        ((5, 5), []),
        ((5, 4, 5, 4), []),
    ],
)
def test_equal_layers_are_folded(tmp_path: Path, widths: tuple[int, ...], runs: list[str]) -> None:
    graph = trace(Stack(*widths), torch.randn(2, 3))
    folded = fold(graph)
    assert [r.title for r in folded.repeats] == runs
    gone = sum(r.count - 1 for r in folded.repeats)
    layers = [g for g in folded.graph.groups if g.name.startswith("blocks.") and g.role != "bias"]
    assert len(layers) == 2 * (len(widths) - gone)
    shown = [t.get_text() for t in draw_layers(graph).axes[0].texts]
    assert all(title in shown for title in runs)
    # What follows the folded layers hangs on the one that is left.
    head = next(b for b in folded.graph.blocks if b.tensor == "head.weight")
    last = folded.repeats[-1].first if runs and folded.repeats[-1].last == len(widths) - 1 else None
    assert (
        folded.graph.groups[head.src].name
        == f"blocks.{len(widths) - 1 if last is None else last}.2"
    )
    graph.draw(tmp_path / "net.png", level="layers")


def test_layers_with_connections_of_their_own_are_not_folded() -> None:
    class Skip(Stack):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            first: Any = self.blocks[1]
            middle = torch.relu(first[0](x))
            for i, block in enumerate(self.blocks):
                last: Any = block
                x = x + (last[2](middle) if i == 3 else block(x))
            return self.head(x)

    graph = trace(Skip(5, 5, 5, 5), torch.randn(2, 3))
    assert not any(r.first <= 1 <= r.last or r.last == 3 for r in fold(graph).repeats)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("gpt2_small", ["transformer.h.0 … 11  × 12"]),
        ("llama_8b", ["model.layers.0 … 31  × 32"]),
        ("resnet_50", [f"resnet.encoder.stages.{s}.layers.1 … {n}  × {n}"
                       for s, n in enumerate((2, 3, 5, 2))]),
    ],
)  # fmt: skip
def test_layers_of_models_of_real_size_are_folded(name: str, runs: list[str]) -> None:
    pytest.importorskip("transformers")
    model, inputs = HUB_BY_NAME[name].meta()
    folded = fold(trace(model, **inputs))
    assert [r.title for r in folded.repeats] == runs
    names = [g.name for g in folded.graph.groups]
    assert len(set(names)) == len(names)
