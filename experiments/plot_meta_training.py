"""Learning curves of a meta-training run: ``python -m experiments.plot_meta_training DIR``.

Reads DIR/log.jsonl, writes DIR/curve.png.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gmn_opt.figures import picture

app = typer.Typer(add_completion=False)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last one that a kill cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def smooth(values: list[float | None], window: int) -> list[float]:
    """Exponential moving average over about ``window`` values, unbiased at the start.

    Values that are None or not finite are passed over; NaN until the first finite one.
    """
    decay = 1 - 1 / max(window, 1)
    total = weight = 0.0
    out = []
    for value in values:
        if value is not None and math.isfinite(value):
            total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        out.append(total / weight if weight else math.nan)
    return out


def plot(log: Path, out: Path) -> bool:
    """Draw ``log`` to the PNG ``out``; False, and nothing drawn, when the log has no lines.

    The first panel is what a run is judged by, the score of its validations. The meta-loss weighs
    every window by its own mean loss, so it stays near 1: it is drawn only for logs of runs without
    validation.
    """
    records = read_log(log)
    if not records:
        return False
    steps = [r["step"] for r in records]
    scores = [(r["step"], r["validation"]) for r in records if r.get("validation") is not None]
    window = max(1, len(records) // 40)
    with picture(out, 7.0, 7.5) as figure:
        axes = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 2, 1))
        if scores:
            _draw_scores(axes[0], scores)
        else:
            _draw_smoothed(axes[0], records, "meta_loss", "meta-loss", "C1", window)
        _draw_smoothed(axes[1], records, "loss", "mean inner loss", "C0", window)
        axes[1].set_yscale("log")  # one run that explodes would flatten all others
        figure.suptitle(f"meta-training, moving averages over {window} outer steps")
        for event, color in (("diverged", "C3"), ("non-finite", "k")):
            at = [r["step"] for r in records if r["event"] == event]
            for i, step in enumerate(at):
                named = f"{event} ({len(at)})" if i == 0 else None
                axes[1].axvline(step, color=color, alpha=0.5, linewidth=0.8, label=named)
            if at:
                axes[1].legend()
        _draw_smoothed(axes[2], records, "grad_norm", "gradient norm", "C4", window)
        if any((r["grad_norm"] or 0) > 0 for r in records):
            axes[2].set_yscale("log")
        axes[3].plot(steps, [r["lr"] for r in records], color="C2")
        axes[3].set_ylabel("learning rate")
        axes[3].set_xlabel("outer step")
    return True


def _draw_scores(axis: Any, scores: list[tuple[int, float]]) -> None:
    best = min(scores, key=lambda pair: pair[1])
    axis.axhline(0.0, color="gray", linewidth=0.8)  # the untrained rule
    axis.plot(*zip(*scores, strict=True), "o-", color="C1", markersize=3)
    axis.plot(*best, "*", color="C3", markersize=11, label=f"best: {best[1]:.3f} at {best[0]}")
    axis.set_ylabel("validation:\nln(loss / untrained)")
    axis.legend()


def _draw_smoothed(
    axis: Any, records: list[dict[str, Any]], key: str, label: str, color: str, window: int
) -> None:
    steps, values = [r["step"] for r in records], [r[key] for r in records]
    raw = [math.nan if v is None else v for v in values]
    axis.plot(steps, raw, ".", color=color, alpha=0.25, markersize=2)
    axis.plot(steps, smooth(values, window), color=color)
    axis.set_ylabel(label)


@app.command()
def main(folder: Annotated[Path, typer.Argument(help="Folder of a meta-training run.")]) -> None:
    """Draw FOLDER/log.jsonl to FOLDER/curve.png."""
    console = Console()
    log = folder / "log.jsonl"
    if not log.is_file():
        console.print(f"There is no {log}; name the --out of a meta-training run.", markup=False)
        raise typer.Exit(2)
    drawn = plot(log, folder / "curve.png")
    console.print(f"Wrote {folder}/curve.png" if drawn else f"{log} is empty.", markup=False)


if __name__ == "__main__":
    app()
