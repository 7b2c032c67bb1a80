"""Pictures of a comparison: training curves per task, and performance profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments import frame
from experiments.comparison import statistics
from experiments.comparison.cells import Workload
from experiments.comparison.summary import Profile, Table, title

_LOOKS: dict[str, dict[str, Any]] = {
    "gmn_total_steps": {"color": "C3", "linewidth": 2.0, "zorder": 5},
    "gmn": {"color": "C1", "linewidth": 2.0, "zorder": 4},
    "gmn_initial_total_steps": {"color": "C3", "linestyle": ":"},
    "gmn_initial": {"color": "C1", "linestyle": ":"},
    "adamw_default": {"color": "C7", "linestyle": "--"},
    "adamw": {"color": "C7"},
    "adamw_cosine": {"color": "C0"},
    "muon_cosine_fixed": {"color": "C2", "linestyle": "--"},
    "muon_cosine": {"color": "C2"},
    "soap": {"color": "C4"},
    "schedule_free": {"color": "C5"},
}


def plot_curves(table: Table, titles: Mapping[str, str], length: int, path: Path) -> None:
    """Loss on fixed training examples over steps, a panel per task, of the runs of one length."""
    shown = {on: s for on, s in table.items() if on.length == length}
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    size = (3.4 * columns + 0.4, 2.7 * rows + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for unused in axes.flat[len(shown) :]:
        unused.set_axis_off()
    for axis, (on, standings) in zip(axes.flat, shown.items(), strict=False):
        for name, s in standings.items():
            axis.plot(s.steps, s.curve, label=title(name), **{"linewidth": 1.2, **_LOOKS[name]})
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(titles[on.task], fontsize=9)
        axis.tick_params(labelsize=7)
        _limit(axis, [s.curve for s in standings.values()])
    for row in axes:
        row[0].set_ylabel("training loss", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("step", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    frame.save_picture(figure, path)


def _limit(axis: Any, curves: Sequence[Sequence[float]]) -> None:
    """Let no run that diverges squeeze the others."""
    starts = [c[0] for c in curves if math.isfinite(c[0])]
    low = [x for c in curves for x in c if math.isfinite(x) and x > 0]
    if starts and low:
        axis.set_ylim(0.9 * min(low), 1.3 * max(starts))


def plot_profiles(profiles: Sequence[Profile], path: Path) -> None:
    """Share of workloads solved within a multiple of the best time, in steps and in seconds."""
    taus = np.linspace(1, statistics.LIMIT, 400)
    size = (4.4 * len(profiles), 4.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(profiles), squeeze=False, sharey=True)
    for axis, found in zip(axes[0], profiles, strict=True):
        for name, ratios in found.ratios.items():
            share = statistics.profile(ratios, taus)
            axis.step(taus, share, where="post", label=title(name), **_LOOKS[name])
        axis.set_title(f"Time to the target, in {found.unit}", fontsize=10)
        axis.set_xlabel("multiple of the best time")
        axis.set_xlim(1, statistics.LIMIT)
        axis.set_ylim(0, 1.02)
    axes[0, 0].set_ylabel("share of workloads")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    frame.save_picture(figure, path)


def picture_length(workloads: Sequence[Workload], preferred: int = 1000) -> int:
    """The length that most tasks have run; of several the preferred, else the longest."""
    counts: dict[int, int] = {}
    for on in workloads:
        counts[on.length] = counts.get(on.length, 0) + 1
    most = [length for length, count in counts.items() if count == max(counts.values())]
    return preferred if preferred in most else max(most)
