"""A parameter graph neuron by neuron, as a matplotlib figure."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from gmn_opt.graph.draw.placement import depths
from gmn_opt.graph.draw.style import CYCLE, LINK_STYLES, ROLE_COLORS, figure_of
from gmn_opt.graph.draw.table import dim_names, pattern
from gmn_opt.graph.edges import KINDS, EdgeList, NodeSet, ancestors, edge_list
from gmn_opt.graph.structure import BlockGraph

# Lengths are in points.
_COLUMN, _STEP, _RADIUS = 128.0, 23.0, 7.0
_GROUP_GAP, _HEAD_GAP, _ABOVE = 58.0, 12.0, 24.0
_MARGIN, _FONT, _LINE, _CHAR = 22.0, 8.0, 12.5, 4.9
_SAMPLES, _SAG = 14, 0.24
_MARKERS = {"bias": "s", "auxiliary": "D"}
_SIZES = {"bias": 95, "auxiliary": 85}

Point = tuple[float, float]


def draw_neurons(graph: BlockGraph) -> Any:
    """A figure with a circle per neuron and a line per parameter."""
    edges = edge_list(graph)
    spot = _spots(graph, edges)
    rows = _legend(graph)
    xs, ys = [p[0] for p in spot.values()] or [0.0], [p[1] for p in spot.values()] or [0.0]
    titles = [len(_title(s)) for s in edges.nodes[: len(graph.groups)] if s.role != "bias"]
    beside = max(_MARGIN, max(titles, default=0) * _CHAR / 2 + 6)
    left, right = min(xs) - beside, max(xs) + beside
    top, bottom = min(ys) - _ABOVE - _MARGIN, max(ys) + _MARGIN + _sag(edges, spot)
    panel = max(len(r[0]) for r in rows) * _CHAR + 40 if rows else 0.0
    lack = len(rows) * _LINE + 2 * _MARGIN - (bottom - top)
    top, bottom = top - max(lack, 0) / 2, bottom + max(lack, 0) / 2
    figure, axes = figure_of(
        right - left + panel + _MARGIN, bottom - top,
        x=(left, right + panel + _MARGIN), y=(bottom, top),
    )  # fmt: skip
    _lines(axes, graph, edges, spot)
    _circles(axes, edges, spot)
    _titles(axes, graph, edges, spot)
    _panel(axes, rows, right + 6, (top + bottom) / 2 - len(rows) * _LINE / 2)
    return figure


def _sag(edges: EdgeList, spot: dict[int, Point]) -> float:
    """How far lines that pass columns may hang below the lowest neuron."""
    longest = max(
        (spot[b][0] - spot[a][0] for a, b in edges.ends.T.tolist() if a in spot and b in spot),
        default=0.0,
    )
    return _SAG * longest / 2 if longest > 1.5 * _COLUMN else 0.0


def _is_shown(nodes: NodeSet) -> bool:
    """Heads are shown by gaps between neurons, not by nodes."""
    return nodes.role != "auxiliary" or nodes.of is not None


def _spots(graph: BlockGraph, edges: EdgeList) -> dict[int, Point]:
    """Where every neuron is drawn."""
    depth = depths(graph)
    columns: dict[int, list[int]] = {}
    for g in sorted(depth):
        columns.setdefault(depth[g], []).append(g)
    offset = {g: _offsets(graph, edges.nodes[g]) for g in depth}
    spot: dict[int, Point] = {}
    for column, groups in columns.items():
        heights = [offset[g][-1] if offset[g] else 0.0 for g in groups]
        at = -(sum(heights) + _GROUP_GAP * (len(groups) - 1)) / 2
        for g, height in zip(groups, heights, strict=True):
            for number, y in zip(edges.nodes[g].numbers, offset[g], strict=True):
                spot[number] = (column * _COLUMN, at + y)
            at += height + _GROUP_GAP
    _biases(graph, edges, spot)
    for nodes in edges.nodes[len(graph.groups) :]:
        if nodes.of is not None:
            around = [spot[n] for n in edges.nodes[nodes.of].numbers if n in spot] or [(0.0, 0.0)]
            x = around[0][0] + (-0.3 if nodes.toward else 0.3) * _COLUMN
            middle = (around[0][1] + around[-1][1]) / 2
            for i, number in enumerate(nodes.numbers):
                spot[number] = (x, middle + (i - (nodes.size - 1) / 2) * _STEP)
    return spot


def _offsets(graph: BlockGraph, nodes: NodeSet) -> list[float]:
    """Heights of the neurons of a group below its first, heads a little apart."""
    above = {p for f in nodes.factors for p in ancestors(graph, f)}
    inner = 1
    for f in reversed(nodes.factors):
        if f in above:
            break
        inner *= graph.factors[f].size
    gap = _HEAD_GAP if above & set(nodes.factors) else 0.0
    return [i * _STEP + (i // max(inner, 1)) * gap for i in range(nodes.size)]


def _biases(graph: BlockGraph, edges: EdgeList, spot: dict[int, Point]) -> None:
    """Bias, scale and shift nodes stand above and before the group that they lead to."""
    leads = {b.src: b.dst for b in graph.blocks}
    taken: Counter[int] = Counter()
    for group in graph.groups:
        if group.role != "bias":
            continue
        target = leads.get(group.id, group.id)
        first = spot.get(edges.nodes[target].start, (0.0, 0.0))
        n = taken[target]
        taken[target] += 1
        x = first[0] - 0.5 * _COLUMN + 15.0 * n
        for i, number in enumerate(edges.nodes[group.id].numbers):
            spot[number] = (x, first[1] - _ABOVE - i * _STEP)


def _lines(axes: Any, graph: BlockGraph, edges: EdgeList, spot: dict[int, Point]) -> None:
    from matplotlib.collections import LineCollection

    ends = list(zip(*edges.ends.tolist(), strict=True))
    block, kind = edges.block.tolist(), edges.kind.tolist()
    color = _colors(graph)
    shown = {s.start: _is_shown(s) for s in edges.nodes}
    first = [s.start for s in edges.nodes]
    set_of = edges.node_set.tolist()
    together, seen = Counter(ends), Counter[Point]()
    plain: list[list[Any]] = [[], []]
    dashed: dict[str, list[Any]] = {}
    for pair, b, k in zip(ends, block, kind, strict=True):
        if not all(shown[first[set_of[n]]] for n in pair):
            continue
        count, number = together[pair], seen[pair]
        seen[pair] += 1
        line = _curve(spot[pair[0]], spot[pair[1]], number, count)
        if b >= 0:
            plain[0].append(line)
            plain[1].append(color[graph.blocks[b].tensor])
        else:
            dashed.setdefault(KINDS[k], []).append(line)
    faint = 0.85 if len(plain[0]) < 150 else 0.6 if len(plain[0]) < 700 else 0.3
    width = 1.0 if len(plain[0]) < 150 else 0.7
    axes.add_collection(
        LineCollection(plain[0], colors=plain[1], linewidths=width, alpha=faint, zorder=1)
    )
    for name, lines in dashed.items():
        tint, style = LINK_STYLES[name]
        axes.add_collection(
            LineCollection(lines, colors=tint, linestyles=[style], linewidths=1.2, zorder=2)
        )


def _curve(a: Point, b: Point, number: int, count: int) -> Any:
    """A line between two spots: bent where others run beside it or neurons are in its way."""
    (x0, y0), (x1, y1) = a, b
    if a == b:
        turn = np.linspace(0, 2 * np.pi, _SAMPLES + 6)
        size = 7.0 + 3.0 * number
        loop = np.stack([x0 + size * (1 - np.cos(turn)), y0 + size * np.sin(turn)], 1)
        return loop + np.array([_RADIUS * 0.7, 0.0])
    bend = (number - (count - 1) / 2) * min(0.05, 0.28 / count)
    if x0 == x1:
        middle = (x0 + 26.0 + 0.22 * abs(y1 - y0) + 6.0 * number, (y0 + y1) / 2)
    else:
        middle = ((x0 + x1) / 2 - bend * (y1 - y0), (y0 + y1) / 2 + bend * (x1 - x0))
        if x1 - x0 > 1.5 * _COLUMN:
            middle = (middle[0], middle[1] + _SAG * (x1 - x0))
        elif x1 < x0:
            middle = (middle[0], middle[1] + 40.0 + 0.2 * (x0 - x1))
        elif not bend:
            return np.array([a, b])
    t = np.linspace(0, 1, _SAMPLES)[:, None]
    p0, p1, p2 = (np.array(p) for p in (a, middle, b))
    return (1 - t) ** 2 * p0 + 2 * t * (1 - t) * p1 + t**2 * p2


def _circles(axes: Any, edges: EdgeList, spot: dict[int, Point]) -> None:
    places = edges.node_place.tolist()
    for nodes in edges.nodes:
        if not _is_shown(nodes) or not nodes.size:
            continue
        face, edge = ROLE_COLORS[nodes.role]
        points = [spot[n] for n in nodes.numbers]
        axes.scatter(
            [p[0] for p in points], [p[1] for p in points], s=_SIZES.get(nodes.role, 196),
            marker=_MARKERS.get(nodes.role, "o"),
            c=face, edgecolors=edge, linewidths=1.1, zorder=3,
        )  # fmt: skip
        if nodes.role in ("input", "output"):
            for n, (x, y) in zip(nodes.numbers, points, strict=True):
                if places[n] >= 0:
                    axes.text(x, y + 0.3, str(places[n]), fontsize=6, ha="center", va="center",
                              color=edge, zorder=4)  # fmt: skip


def _title(nodes: NodeSet) -> str:
    """A group's name, with its middle left out where it is too long."""
    name = nodes.name
    return name if len(name) <= 20 else f"{name[:6]}…{name[-13:]}"


def _titles(axes: Any, graph: BlockGraph, edges: EdgeList, spot: dict[int, Point]) -> None:
    for nodes in edges.nodes[: len(graph.groups)]:
        if nodes.role == "bias" or not nodes.size:
            continue
        x, y = spot[nodes.start]
        name = _title(nodes)
        second = f"\n{nodes.activation}" if nodes.activation else ""
        axes.text(x, y - _RADIUS - 4, name + second, fontsize=_FONT, ha="center", va="bottom",
                  color="#222222", zorder=5, parse_math=False, linespacing=1.1,
                  bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6},
                  )  # fmt: skip


def _colors(graph: BlockGraph) -> dict[str, str]:
    return {name: CYCLE[i % len(CYCLE)] for i, name in enumerate(graph.shapes)}


def _legend(graph: BlockGraph) -> list[tuple[str, str, Any]]:
    """Rows of (text, what, look)."""
    names, color = dim_names(graph), _colors(graph)
    roles = [r for r in ROLE_COLORS if any(s.role == r and _is_shown(s)
             for s in edge_list(graph).nodes)]  # fmt: skip
    rows: list[tuple[str, str, Any]] = [
        ("bias, scale, shift" if r == "bias" else f"{r} neuron", r, ROLE_COLORS[r]) for r in roles
    ]
    done = set()
    for block in graph.blocks:
        if block.tensor not in done:
            done.add(block.tensor)
            label = f"{block.tensor}  {block.kind}  {pattern(block, names)}"
            rows.append((label, "line", (color[block.tensor], "-")))
    for kind in dict.fromkeys(x.kind for x in graph.links):
        rows.append((f"{kind} link", "line", LINK_STYLES[kind]))
    if any(s.role == "auxiliary" and _is_shown(s) for s in edge_list(graph).nodes):
        rows.append(("stands for", "line", LINK_STYLES["member"]))
    return rows


def _panel(axes: Any, rows: list[tuple[str, str, Any]], x: float, y: float) -> None:
    for text, what, (color, other) in rows:
        if what == "line":
            axes.plot([x, x + 16], [y, y], color=color, linestyle=other, linewidth=1.8, zorder=5)
        else:
            marker = _MARKERS.get(what, "o")
            axes.scatter([x + 8], [y], s=50, marker=marker, c=color, edgecolors=other, zorder=5)
        axes.text(x + 22, y, text, fontsize=_FONT, va="center", ha="left", color="#222222",
                  family="DejaVu Sans Mono", parse_math=False)  # fmt: skip
        y += _LINE
