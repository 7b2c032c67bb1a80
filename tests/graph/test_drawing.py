"""Pictures of graphs: what they show, and that nothing lies on anything else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from torch import nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.graph.draw.folding import fold
from gmn_opt.graph.draw.layers import draw_layers
from gmn_opt.graph.draw.neurons import draw_neurons
from gmn_opt.graph.draw.picture import is_small
from gmn_opt.graph.draw.placement import Layered, apart, depths, layer_arcs
from tests.cases import CASES
from tests.graph.graphs import graph_of
from tests.transformer_cases import HUB_BY_NAME

NAMES = [c.name for c in CASES]


def texts(figure: Any) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_a_small_network_in_every_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    target = tmp_path / f"net{suffix}"
    assert graph_of("mlp").draw(target) == target
    assert target.read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["gpt", "lstm", "unet"])
def test_layers_of_larger_networks(tmp_path: Path, name: str) -> None:
    assert not is_small(graph_of(name))
    graph_of(name).draw(str(tmp_path / "net.svg"))
    graph_of(name).contract().draw(tmp_path / "small.png")


@pytest.mark.parametrize("name", ["cnn_1d", "residual_mlp", "attention", "maxout", "grouped_conv"])
def test_neurons(tmp_path: Path, name: str) -> None:
    graph_of(name).draw(tmp_path / "net.png", level="neurons")
    shown = " ".join(texts(draw_neurons(graph_of(name))))
    for parameter in graph_of(name).shapes:
        assert parameter in shown


def test_neuron_pictures_say_what_is_what() -> None:
    shown = texts(draw_neurons(graph_of("residual_mlp")))
    for text in ("input neuron", "output neuron", "bias, scale, shift", "residual link"):
        assert text in shown
    assert "up.0\nrelu" in shown
    assert [t for t in shown if t.isdigit()] == ["0", "1", "2", "3", "0", "1", "2"]
    assert "stands for" in texts(draw_neurons(graph_of("maxout")))


def test_layer_pictures_list_parameters_in_their_boxes() -> None:
    shown = texts(draw_layers(graph_of("gpt")))
    assert "blocks.0.qkv.weight[8:16]  linear  (b2 c4|b2) a8" in shown
    assert "hidden, e16, gelu" in shown
    for text in ("residual", "product", "embedding", "output neurons"):
        assert text in shown


def test_text_stays_in_its_box() -> None:
    figure = draw_layers(graph_of("transformer_decoder"))
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(110)
    canvas.draw()
    axes = figure.axes[0]
    boxes = [p.get_window_extent() for p in axes.patches if isinstance(p, FancyBboxPatch)]
    below = max(b.y1 for b in boxes)
    inside = [t.get_window_extent() for t in axes.texts]
    inside = [t for t in inside if t.y0 < below]
    assert len(inside) > len(boxes)
    for t in inside:
        assert any(b.x0 <= t.x0 and t.x1 <= b.x1 and b.y0 <= t.y0 and t.y1 <= b.y1 for b in boxes)


@pytest.mark.parametrize("name", NAMES)
def test_groups_stand_below_what_they_are_computed_from(name: str) -> None:
    graph = graph_of(name)
    depth = depths(graph)
    assert set(depth) == {g.id for g in graph.groups if g.role != "bias"}
    assert min(depth.values()) == 0
    arcs = [a for a in layer_arcs(graph) if a[0] in depth and a[1] in depth]
    assert sum(depth[a] >= depth[b] for a, b in arcs) <= len(arcs) // 4


@pytest.mark.parametrize("name", NAMES)
def test_no_two_boxes_overlap(name: str) -> None:
    depth = depths(graph_of(name))
    width = {g: 40.0 + 31 * (g % 5) for g in depth}
    layout = Layered(depth, layer_arcs(graph_of(name)), width, 9.0)
    assert sorted(i for r in layout.rows for i in r if isinstance(i, int)) == sorted(depth)
    for row in layout.rows:
        for a, b in pairwise(row):
            room = (layout.width[a] + layout.width[b]) / 2 + 9.0
            assert layout.center[b] - layout.center[a] >= room - 1e-6
    for (a, b), path in layout.paths.items():
        assert (path[0], path[-1]) == (a, b)
        assert len(path) == max(abs(depth[a] - depth[b]) + 1, 2)


def test_apart_moves_as_little_as_possible() -> None:
    assert apart([0, 100], [10, 10], 5, [1, 1]) == [0, 100]
    assert apart([0, 0], [10, 10], 5, [1, 1]) == [-7.5, 7.5]
    assert apart([0, 0], [10, 10], 5, [2, 1]) == [-5, 10]
    assert apart([], [], 5, []) == []


def test_a_residual_stream_runs_straight_down() -> None:
    graph = graph_of("gpt")
    stream = [(x.src, x.dst) for x in graph.links if x.kind == "residual"]
    depth = depths(graph)
    width = dict.fromkeys(depth, 100.0)
    layout = Layered(depth, layer_arcs(graph), width, 10.0, stream)
    for a, b in stream:
        assert abs(layout.center[a] - layout.center[b]) < 10


def test_a_deep_network_is_one_readable_file(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.Linear(30, 30) for _ in range(25)])
    graph = trace(model, torch.randn(1, 30), verify=False)
    target = graph.draw(tmp_path / "deep.png")
    assert 5_000 < target.stat().st_size < 3_000_000


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    graph = graph_of("mlp")
    with pytest.raises(ValueError, match=r"net.jpg.*ends in .png, .svg, .pdf"):
        graph.draw(tmp_path / "net.jpg")
    with pytest.raises(ValueError, match="level: expected 'auto'"):
        graph.draw(tmp_path / "net.png", level="edges")  # type: ignore[arg-type]
    wide = ParameterGraph.islands({"w": (200, 200)})
    with pytest.raises(ValueError, match="40,000 edges are too many"):
        wide.draw(tmp_path / "net.png", level="neurons")
    with pytest.raises(OSError, match="nowhere"):
        graph.draw(tmp_path / "nowhere" / "net.png")


# ---------------------------------------------------------------------- repeated layers


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
    shown = texts(draw_layers(graph))
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
