"""Learning curves of a meta-training run: ``python -m experiments.plot_meta_training DIR``.

Reads DIR/log.jsonl, writes DIR/curve.png.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from gmn_opt.weights.atomic import write_atomically

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
    """Draw ``log`` to the PNG ``out``; False, and nothing drawn, when the log has no lines."""
    records = read_log(log)
    if not records:
        return False
    steps = [r["step"] for r in records]
    window = max(1, len(records) // 40)
    figure = Figure(figsize=(7.0, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    rows = (("loss", "mean inner loss [nats]", "C0"), ("meta_loss", "meta-loss", "C1"))
    for axis, (key, label, color) in zip(axes[:2], rows, strict=True):
        values = [r[key] for r in records]
        raw = [math.nan if v is None else v for v in values]
        axis.plot(steps, raw, ".", color=color, alpha=0.25, markersize=2)
        axis.plot(steps, smooth(values, window), color=color)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_title(f"meta-training, moving averages over {window} outer steps")
    for event, color in (("diverged", "C3"), ("non-finite", "k")):
        at = [r["step"] for r in records if r["event"] == event]
        for i, step in enumerate(at):
            named = f"{event} ({len(at)})" if i == 0 else None
            axes[0].axvline(step, color=color, alpha=0.5, linewidth=0.8, label=named)
        if at:
            axes[0].legend()
    axes[2].plot(steps, [r["lr"] for r in records], color="C2")
    axes[2].set_ylabel("learning rate")
    axes[2].set_xlabel("outer step")
    axes[2].grid(alpha=0.3)
    write_atomically(out, lambda path: figure.savefig(path, format="png", dpi=130))
    return True


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
