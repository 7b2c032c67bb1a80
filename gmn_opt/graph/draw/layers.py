"""A parameter graph group by group, as a matplotlib figure."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from gmn_opt.graph.draw.folding import Repeat, fold
from gmn_opt.graph.draw.placement import Layered, depths, layer_arcs
from gmn_opt.graph.draw.style import EDGE_COLORS, LINK_STYLES, ROLE_COLORS, figure_of
from gmn_opt.graph.draw.table import dim_names, pattern
from gmn_opt.graph.structure import Block, BlockGraph

# Lengths are in points, so that text of a known size fits its box.
_FONT, _LINE, _CHAR = 8.0, 11.5, 5.1
_PAD, _GAP, _ROW_GAP = 7.0, 16.0, 30.0
_MARGIN, _HEADER = 14.0, 26.0
_MOST_LINES, _MOST_CHARS = 10, 74


def draw_layers(graph: BlockGraph) -> Any:
    """A figure with one box per group, and what leads into it written in the box.

    Of layers that repeat, one is drawn, in a frame that says how many there are.
    """
    folded = fold(graph)
    graph = folded.graph
    depth = depths(graph)
    text = {g: _text(graph, g) for g in depth}
    for repeat in folded.repeats:
        for g in repeat.groups & text.keys():
            text[g][0] += f"  × {repeat.count}"
    width = {g: max(map(len, lines)) * _CHAR + 2 * _PAD for g, lines in text.items()}
    height = {g: len(lines) * _LINE + 2 * _PAD for g, lines in text.items()}
    products = [(x.src, x.dst) for x in graph.links if x.kind == "product"]
    stream = [(x.src, x.dst) for x in graph.links if x.kind == "residual"]
    layout = Layered(depth, layer_arcs(graph), width, _GAP, stream)

    tops, at = [], 0.0
    for row in layout.rows:
        tops.append(at)
        at += max((height[i] for i in row if isinstance(i, int)), default=0.0) + _ROW_GAP
    total = max(at - _ROW_GAP, 1.0)
    edges = [layout.center[i] + s * layout.width[i] / 2 for r in layout.rows for i in r
             for s in (-1, 1)] or [0.0, 1.0]  # fmt: skip
    left, right = min(edges), max(edges)
    legend = _legend(graph)
    wide = max(right - left, sum(len(n) * _CHAR + 44 for n, _, _ in legend))
    figure, axes = figure_of(
        wide + 2 * _MARGIN, total + 2 * _MARGIN + _HEADER,
        x=(left - (wide - right + left) / 2 - _MARGIN, right + (wide - right + left) / 2 + _MARGIN),
        y=(total + _MARGIN, -_MARGIN - _HEADER),
    )  # fmt: skip

    box = {g: (layout.center[g], tops[depth[g]], width[g], height[g]) for g in depth}
    for repeat in folded.repeats:
        _frame(axes, repeat, box)
    for arc, path in layout.paths.items():
        _arrow(axes, graph, arc, path, layout, box, tops)
    for src, dst in products:
        if src in box and dst in box and src != dst:
            _product(axes, box[src], box[dst])
    for g, (x, y, w, h) in box.items():
        _box(axes, graph, g, text[g], x, y, w, h)
    _draw_legend(axes, legend, left - (wide - right + left) / 2, -_MARGIN - _HEADER / 2)
    return figure


def _text(graph: BlockGraph, group: int) -> list[str]:
    """Title, what the neurons are, and the parameters that lead into them."""
    names = dim_names(graph)
    g = graph.groups[group]
    axes = " ".join(names[f] for f in g.factors) or "1"
    about = f"{g.role}, {axes}" + (f", {g.activation}" if g.activation else "")
    lines = [_short(g.name), about]
    rows = []
    for block in graph.blocks:
        if block.dst == group:
            label = f"{_slice(graph, block)}  {block.kind}  {pattern(block, names)}"
            rows.append(_short(label, _MOST_CHARS))
    if len(rows) > _MOST_LINES:
        rows = [*rows[: _MOST_LINES - 1], f"and {len(rows) - _MOST_LINES + 1} more"]
    return lines + rows


def _slice(graph: BlockGraph, block: Block) -> str:
    """A parameter's name, with the part of it that a block is."""
    shape = graph.shapes[block.tensor]
    name = _tail(block.tensor, 34 if block.shape == shape else 26)
    if block.shape == shape:
        return name
    parts = []
    for index, size in zip(block.index, shape, strict=True):
        whole = isinstance(index, range) and len(index) == size
        spread = not isinstance(index, range) or index.step != 1
        parts.append(":" if whole else f"{index[0]}:{index[-1] + 1}" + ("*" if spread else ""))
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    return f"{name}[{', '.join(parts)}]"


def _tail(name: str, most: int) -> str:
    """As many of the last parts of a dotted name as fit; the title of the box has the others."""
    whole = name
    while len(name) > most and "." in name:
        name = name.partition(".")[2]
    return name if name == whole else f"….{name}"


def _short(text: str, most: int = 44) -> str:
    """Text with its middle left out where it is too long."""
    if len(text) <= most:
        return text
    head = (most - 1) // 3
    return text[:head] + "…" + text[len(text) - (most - 1 - head) :]


def _box(
    axes: Any, graph: BlockGraph, g: int, lines: list[str],
    x: float, y: float, w: float, h: float,
) -> None:  # fmt: skip
    from matplotlib.patches import FancyBboxPatch

    face, edge = ROLE_COLORS[graph.groups[g].role]
    axes.add_patch(
        FancyBboxPatch(
            (x - w / 2, y), w, h, boxstyle="round,pad=0,rounding_size=4",
            facecolor=face, edgecolor=edge, linewidth=1.1, zorder=3,
        )
    )  # fmt: skip
    for n, line in enumerate(lines):
        axes.text(
            x - w / 2 + _PAD, y + _PAD + (n + 0.5) * _LINE, line, fontsize=_FONT, zorder=4,
            family="DejaVu Sans Mono", weight="bold" if n == 0 else "normal",
            color="#111111" if n == 0 else "#555555" if n == 1 else "#222222",
            va="center", ha="left", parse_math=False,
        )  # fmt: skip


def _frame(axes: Any, repeat: Repeat, box: dict[int, tuple[float, float, float, float]]) -> None:
    """A frame around the boxes of a layer that repeats, unless others stand among them."""
    from matplotlib.patches import Rectangle

    mine = [box[g] for g in repeat.groups if g in box]
    if not mine:
        return
    left, right = (s(x + k * w / 2 for x, _, w, _ in mine) for s, k in ((min, -1), (max, 1)))
    top, bottom = min(y for _, y, _, _ in mine), max(y + h for _, y, _, h in mine)
    left, right, top, bottom = left - _PAD, right + _PAD, top - _LINE - _PAD, bottom + _PAD
    for g, (x, y, w, h) in box.items():
        apart = x + w / 2 < left or x - w / 2 > right or y + h < top or y > bottom
        if g not in repeat.groups and not apart:
            return
    axes.add_patch(
        Rectangle(
            (left, top), right - left, bottom - top, facecolor="#f3f1ea", edgecolor="#b9b19b",
            linewidth=1.0, zorder=1,
        )
    )  # fmt: skip
    axes.text(
        left + _PAD, top + _LINE * 0.7, repeat.title, fontsize=_FONT, weight="bold", zorder=4,
        color="#6f6748", family="DejaVu Sans Mono", va="center", ha="left", parse_math=False,
    )  # fmt: skip


def _kinds(graph: BlockGraph, arc: tuple[int, int]) -> list[str]:
    found = [b.kind for b in graph.blocks if (b.src, b.dst) == arc]
    found += [x.kind for x in graph.links if (x.src, x.dst) == arc and x.kind != "product"]  # type: ignore[misc]
    return list(dict.fromkeys(found))


def _arrow(
    axes: Any, graph: BlockGraph, arc: tuple[int, int], path: list[object],
    layout: Layered, box: dict[int, tuple[float, float, float, float]], tops: list[float],
) -> None:  # fmt: skip
    """A smooth line through the gaps between boxes."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    src, dst = arc
    down = layout.depth[src] <= layout.depth[dst]
    same = layout.depth[src] == layout.depth[dst]
    start = box[src][1] + (box[src][3] if down and not same else 0.0)
    end = box[dst][1] + (0.0 if down or same else box[dst][3])
    points = [(layout.center[src], start)]
    for item in path[1:-1]:
        row = item[1]  # type: ignore[index]
        low = tops[row + 1] - _ROW_GAP if row + 1 < len(tops) else tops[row]
        both = [(layout.center[item], tops[row]), (layout.center[item], low)]
        points += both if down else both[::-1]
    points.append((layout.center[dst], end))
    for shift, kind in enumerate(_kinds(graph, arc)):
        moved = [(x + 5.0 * shift, y) for x, y in points]
        vertices, codes = [moved[0]], [Curve.MOVETO]
        for (x0, y0), (x1, y1) in pairwise(moved):
            if same:
                lift = 0.8 * _ROW_GAP
                vertices += [(x0, y0 - lift), (x1, y1 - lift), (x1, y1)]
            else:
                vertices += [(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2), (x1, y1)]
            codes += [Curve.CURVE4] * 3
        link = LINK_STYLES.get(kind)
        axes.add_patch(
            FancyArrowPatch(
                path=Curve(vertices, codes), arrowstyle="-|>", mutation_scale=8,
                color=link[0] if link else EDGE_COLORS[kind],
                linestyle=link[1] if link else "-", linewidth=1.3, zorder=2,
                shrinkA=0, shrinkB=0,
            )
        )  # fmt: skip


def _product(
    axes: Any, a: tuple[float, float, float, float], b: tuple[float, float, float, float]
) -> None:
    """A dotted line between boxes whose neurons are multiplied."""
    color, style = LINK_STYLES["product"]
    if a[1] == b[1]:
        first, second = sorted((a, b))
        y = a[1] + min(a[3], b[3]) / 2
        axes.plot(
            [first[0] + first[2] / 2, second[0] - second[2] / 2], [y, y],
            color=color, linestyle=style, linewidth=1.4, zorder=2,
        )  # fmt: skip
    else:
        axes.plot(
            [a[0], b[0]], [a[1] + a[3] / 2, b[1] + b[3] / 2],
            color=color, linestyle=style, linewidth=1.4, zorder=1,
        )  # fmt: skip


def _legend(graph: BlockGraph) -> list[tuple[str, str, Any]]:
    roles = [r for r in ROLE_COLORS if any(g.role == r for g in graph.groups) and r != "bias"]
    arcs = layer_arcs(graph)
    kinds = dict.fromkeys(k for arc in arcs for k in _kinds(graph, arc))
    if any(x.kind == "product" for x in graph.links):
        kinds["product"] = None
    rows: list[tuple[str, str, Any]] = [(f"{r} neurons", "role", ROLE_COLORS[r]) for r in roles]
    return rows + [
        (k, "line", LINK_STYLES[k] if k in LINK_STYLES else (EDGE_COLORS[k], "-")) for k in kinds
    ]


def _draw_legend(axes: Any, rows: list[tuple[str, str, Any]], x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    for name, kind, (color, other) in rows:
        if kind == "role":
            axes.add_patch(
                Rectangle((x, y - 5), 16, 10, facecolor=color, edgecolor=other, linewidth=1)
            )
        else:
            axes.plot([x, x + 18], [y, y], color=color, linestyle=other, linewidth=1.6)
        axes.text(x + 23, y, name, fontsize=_FONT, va="center", ha="left", color="#333333",
                  family="DejaVu Sans Mono")  # fmt: skip
        x += len(name) * _CHAR + 44
