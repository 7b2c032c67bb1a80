"""The picture of the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmn_opt.cli.contest import GMN, GMN_HORIZON, GMN_INITIAL
from gmn_opt.cli.demo.summary import BEST, DEFAULT, ModelSummary, Standing
from gmn_opt.cli.demo.training import RunResult
from gmn_opt.figures import legend_below, picture

_STYLES = {
    GMN.name: ("C0", "-", "o"),
    GMN_HORIZON.name: ("C5", "-", "s"),
    GMN_INITIAL.name: ("C6", "--", "v"),
    DEFAULT: ("C3", "--", "^"),
    BEST: ("C1", "-", "D"),
}


def plot_curves(summaries: Sequence[ModelSummary], path: Path) -> None:
    """Training loss against steps, a panel per model.

    The loss is that over the fixed slice of training images, averaged over the seeds, with a band
    from the least to the greatest. The dotted line is where the tuned AdamW ends.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with picture(path, 5.2 * len(summaries), 4.8, "demo") as figure:
        panels = figure.subplots(1, len(summaries), squeeze=False)[0]
        for panel, summary in zip(panels, summaries, strict=True):
            for standing in summary.standings:
                runs = [run for run in summary.runs if run.contestant == standing.contestant]
                _draw(panel, standing, runs, _label(standing, summaries))
            panel.axhline(summary.target, color=_STYLES[BEST][0], linewidth=0.8, linestyle=":")
            panel.set_yscale("log")
            panel.set_ylim(*_limits(summary))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set_yticks(_ticks(*_limits(summary)))
            panel.set_xlim(0, summary.steps)
            panel.set_title(f"{summary.title}, {summary.parameters:,} parameters")
            panel.set_xlabel("step")
        panels[0].set_ylabel("training loss (cross entropy)")
        legend_below(figure)
        seeds = len(summaries[0].seeds)
        band = f"mean of {seeds} seeds, band from least to greatest" if seeds > 1 else "one seed"
        figure.suptitle(f"Fashion-MNIST, batch 128: {band}")


def _draw(panel: Any, standing: Standing, runs: list[RunResult], label: str) -> None:
    colour, line, mark = _STYLES[standing.role]
    steps = runs[0].probe_steps
    losses = list(zip(*(run.probe_losses for run in runs), strict=True))
    if len(runs) > 1:
        low, high = [min(at) for at in losses], [max(at) for at in losses]
        panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(
        steps,
        standing.curve,
        color=colour,
        linestyle=line,
        linewidth=1.8,
        marker=mark,
        markersize=4,
        label=label,
    )


def _limits(summary: ModelSummary) -> tuple[float, float]:
    """From just below the least loss to just above the first one; what diverges leaves the top."""
    losses = [loss for s in summary.standings for loss in s.curve if math.isfinite(loss)]
    first = summary.standings[0].curve[0]
    return 0.9 * min(losses), 1.15 * first


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the limits."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [mantissa * 10.0**e for e in exponents for mantissa in (1, 2, 3, 5, 7)]
    return [round(tick, 12) for tick in ticks if low <= tick <= high]


def _label(standing: Standing, summaries: Sequence[ModelSummary]) -> str:
    """A title that is right for all panels: best rates may differ from model to model."""
    titles = {summary.standing(standing.role).title for summary in summaries}
    return standing.title if len(titles) == 1 else "AdamW, best constant rate"
