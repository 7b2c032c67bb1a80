"""Pictures of graphs: what they show, and that nothing lies on anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from torch import nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.graph.draw.layers import draw_layers
from gmn_opt.graph.draw.neurons import draw_neurons
from gmn_opt.graph.draw.picture import is_small
from tests.graph.graphs import graph_of


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
