"""Colours and line styles that all pictures of graphs share, and a bare figure."""

from __future__ import annotations

from typing import Any

from gmn_opt.extras import needs

#: Fill and outline of neurons by role.
ROLE_COLORS = {
    "input": ("#dbe9f6", "#2f6fab"),
    "hidden": ("#f4f4f2", "#666666"),
    "output": ("#fde3cf", "#c8641b"),
    "bias": ("#fff6c9", "#a58a12"),
    "auxiliary": ("#ece3f5", "#7d55a8"),
}
#: Lines of parameters by kind.
EDGE_COLORS = {
    "linear": "#1f5fa8",
    "conv": "#1b8a5a",
    "embedding": "#8a4fb5",
    "bias": "#a58a12",
    "scale": "#c2306b",
    "shift": "#d07f1e",
    "other": "#777777",
}
#: Colour and dashes of identity edges by kind.
LINK_STYLES: dict[str, tuple[str, Any]] = {
    "residual": ("#111111", (0, (4, 2.5))),
    "product": ("#b02a2a", (0, (1, 1.6))),
    "norm": ("#777777", (0, (4, 2, 1, 2))),
    "member": ("#7d55a8", (0, (1, 2.5))),
}
#: Lines told apart by tensor.
CYCLE = (
    *("#1f5fa8", "#d1701f", "#1b8a5a", "#c0392b", "#7d55a8", "#8c5a3c", "#d0539b", "#5c6b73"),
    *("#9aa11b", "#17a2b8", "#4053d3", "#ddb310", "#00b25d", "#b51d14", "#fb49b0", "#6a4c00"),
)


def figure_of(
    width: float, height: float, x: tuple[float, float], y: tuple[float, float]
) -> tuple[Any, Any]:
    """A figure of ``width`` by ``height`` points, its only axes filling it, and those axes."""
    with needs("graph"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.axis("off")
    return figure, axes
