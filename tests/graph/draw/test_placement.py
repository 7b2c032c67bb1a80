"""Where groups are drawn: below what they are computed from, apart from each other."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gmn_opt.graph.draw.placement import Layered, apart, depths, layer_arcs
from tests.graph.graphs import SPREAD, graph_of


@pytest.mark.parametrize("name", SPREAD)
def test_groups_stand_below_what_they_are_computed_from(name: str) -> None:
    graph = graph_of(name)
    depth = depths(graph)
    assert set(depth) == {g.id for g in graph.groups if g.role != "bias"}
    assert min(depth.values()) == 0
    arcs = [a for a in layer_arcs(graph) if a[0] in depth and a[1] in depth]
    assert sum(depth[a] >= depth[b] for a, b in arcs) <= len(arcs) // 4


@pytest.mark.parametrize("name", SPREAD)
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
