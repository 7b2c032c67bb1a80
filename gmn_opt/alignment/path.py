"""Loss along the straight line between two networks, and the barrier on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gmn_opt.alignment.checks import State
from gmn_opt.alignment.merging import average
from gmn_opt.figures import legend_below, picture

Renew = Callable[[dict[str, Tensor], float], Mapping[str, Tensor]]


def losses_along_path(
    model: nn.Module,
    first: State,
    second: State,
    loss: Callable[[nn.Module], float],
    points: int = 11,
    renew: Renew | None = None,
) -> list[float]:
    """The loss at evenly spaced averages of two networks, both ends included.

    Args:
        model: A module of this architecture; left as it is.
        first: State dict at t = 0.
        second: State dict at t = 1, aligned to the first or not.
        loss: From a network in evaluation mode to a number.
        points: How many averages.
        renew: Changes an average before it is judged, given the state and ``t``: for instance
            ``lambda state, t: renormalize(model, state, data)``. The ends stay as they are.

    Raises:
        ValueError: Fewer than two points, or states that differ in names or shapes.
    """
    if points < 2:
        raise ValueError(f"A path has at least its two ends; received points={points}.")
    network = copy.deepcopy(model).eval()
    found = []
    for t in torch.linspace(0, 1, points, dtype=torch.float64).tolist():
        state: Mapping[str, Tensor] = average([first, second], [1 - t, t])
        if renew is not None and 0 < t < 1:
            state = renew(dict(state), t)
        network.load_state_dict(state)
        with torch.no_grad():
            found.append(float(loss(network)))
    return found


def barrier(losses: Sequence[float]) -> float:
    """How far the loss rises above the line between both ends, at most; 0 if it never does.

    Raises:
        ValueError: Fewer than two losses.
    """
    if len(losses) < 2:
        raise ValueError(f"A path has at least its two ends; received {len(losses)} losses.")
    n = len(losses) - 1
    line = [losses[0] + (losses[-1] - losses[0]) * k / n for k in range(n + 1)]
    return max(x - y for x, y in zip(losses, line, strict=True))


def plot_paths(curves: Mapping[str, Sequence[float]], path: Path, label: str = "loss") -> None:
    """Draw losses along paths to a .png, .svg or .pdf file, one line each.

    Raises:
        ValueError: For another suffix.
        OSError: If the file cannot be written.
    """
    with picture(path, 5.0, 3.6, "align") as figure:
        axes = figure.subplots()
        for name, losses in curves.items():
            places = [k / (len(losses) - 1) for k in range(len(losses))]
            axes.plot(places, losses, marker="o", markersize=3, label=name)
        axes.set_xlabel("from the first network (0) to the second (1)")
        axes.set_ylabel(label)
        if curves:
            legend_below(figure)


__all__ = ["barrier", "losses_along_path", "plot_paths"]
