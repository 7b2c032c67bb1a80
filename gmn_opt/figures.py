"""How charts look: one palette, letters that stay readable, one legend, one resolution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmn_opt.extras import needs
from gmn_opt.weights.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which people with the common kinds of colour blindness tell apart;
#: ``"C0"`` to ``"C7"`` inside of :func:`picture`.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#000000"),
)
DPI = 150
#: Pictures stand on pages 600 pixels wide, where letters should be 9 pixels high.
_POINTS_PER_INCH = 9 * 72 / 600
_KINDS = ("png", "svg", "pdf")


def letters(width: float) -> float:
    """Points of the letters in a figure so many inches wide."""
    return max(8.0, _POINTS_PER_INCH * width)


def style(width: float) -> dict[str, Any]:
    """Settings of matplotlib for a figure so many inches wide."""
    from cycler import cycler

    size = letters(width)
    return {
        "font.size": size,
        "axes.titlesize": size,
        "axes.labelsize": size,
        "xtick.labelsize": 0.9 * size,
        "ytick.labelsize": 0.9 * size,
        "legend.fontsize": 0.9 * size,
        "legend.frameon": False,
        "figure.titlesize": 1.1 * size,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.5,
    }


@contextmanager
def picture(path: Path, width: float, height: float, extra: str = "all") -> Iterator[Figure]:
    """A figure to draw on, written when the block ends: whole or not at all.

    Args:
        path: A .png, .svg or .pdf file.
        width: Inches.
        height: Inches.
        extra: Of ours, which brings matplotlib.

    Raises:
        ValueError: For another suffix.
        MissingExtraError: Without matplotlib.
        OSError: If the file cannot be written.
    """
    kind = path.suffix[1:].lower()
    if kind not in _KINDS:
        raise ValueError(f"Cannot draw to {path}: the name must end in .png, .svg or .pdf.")
    with needs(extra):
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    with matplotlib.rc_context(style(width)):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        # inside, as labels of ticks are made when they are drawn
        write_atomically(path, lambda p: figure.savefig(p, dpi=DPI, format=kind))


def log_numbers(axes: Any) -> None:
    """A logarithmic vertical axis with numbers as people write them: 0.2, 0.5, 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, columns: int = 3) -> None:
    """One legend under all axes: every label once, in the order in which they were drawn."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


__all__ = ["DPI", "PALETTE", "legend_below", "letters", "log_numbers", "picture", "style"]
