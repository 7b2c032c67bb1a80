"""What a graph tells about operators beyond the parameters: activations, convolutions, heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gmn_opt.graph import trace
from gmn_opt.graph.edges import edge_list
from gmn_opt.graph.export.pyg import ACTIVATIONS, CONV_COLUMNS, NODE_COLUMNS
from tests.graph.graphs import graph_of

SETTINGS = [
    {"stride": 2, "padding": 1, "dilation": 1, "groups": 1, "transposed": 0},
    {"stride": 1, "padding": 2, "dilation": 2, "groups": 2, "transposed": 0},
    {"stride": 2, "padding": 0, "dilation": 1, "groups": 1, "transposed": 1},
]


def test_settings_of_convolutions_are_attributes_and_edge_features() -> None:
    layers: list[nn.Module] = []
    for s in SETTINGS:
        kind = nn.ConvTranspose2d if s["transposed"] else nn.Conv2d
        rest: dict[str, Any] = {k: v for k, v in s.items() if k != "transposed"}
        layers += [kind(4, 4, 3, **rest), nn.ReLU()]
    graph = trace(nn.Sequential(*layers), torch.randn(1, 4, 9, 9))
    values = {n: torch.randn(s) for n, s in graph.shapes.items()}
    data = graph.to_pyg(values)
    for i, wanted in enumerate(SETTINGS):
        number, block = next(
            (n, b) for n, b in enumerate(graph.blocks) if b.tensor == f"{2 * i}.weight"
        )
        assert {k: block.attributes[k] for k in wanted} == wanted
        rows = data.edge_conv[data.edge_block == number]
        assert (rows == torch.tensor([wanted[c] for c in CONV_COLUMNS])).all()
    assert (data.edge_conv[data.edge_kind != 1] == 0).all()


@pytest.mark.parametrize("module", [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU])
def test_activations_are_known_by_group_and_node(module: type[nn.Module]) -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 5), module(), nn.Linear(5, 2)), torch.randn(2, 3))
    name = module.__name__.lower()
    assert {g.name: g.activation for g in graph.groups}["0"] == name
    data = graph.to_pyg({n: torch.randn(s) for n, s in graph.shapes.items()})
    codes = data.x[:, NODE_COLUMNS.index("activation")]
    assert (codes == ACTIVATIONS.index(name)).sum() == 5


@pytest.mark.parametrize(
    ("name", "group", "sizes"),
    [
        ("attention", "q", [2]),
        ("attention_gqa", "q", [2]),
        ("grouped_conv", "0", [2]),
        ("group_norm", "0", [2]),
        ("mlp", "0", []),
    ],
)
def test_heads_and_groups_are_known_and_have_nodes(name: str, group: str, sizes: list[int]) -> None:
    graph = graph_of(name)
    found = next(g for g in graph.groups if g.name == group)
    parents = graph.parents_of(found)
    assert [p.size for p in parents] == sizes
    assert graph.parents_of(found.id) == parents
    ids = tuple(p.id for p in parents)
    above = [s for s in edge_list(graph).nodes if s.name.endswith("(heads)") and s.factors == ids]
    assert bool(above) is bool(sizes)
