"""Which optimizer fits an image: ``python -m experiments.inr.fitters --out DIR``.

Fits the same SIRENs to the same images, from the same initial parameters, once by GMNOptimizer
(told the number of steps, not tuned) and by Adam at several rates, constant and along half a
cosine. Writes ``result.json`` and ``curves.png``: PSNR over steps and over seconds, steps and
seconds to a PSNR. Every run is one INR in a plain loop on all pixels, as a user would write it;
thousands at once are what `gmn_opt.inr.fit_batch` is for.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from experiments import frame
from gmn_opt.data import load_bundled
from gmn_opt.figures import legend_below, picture
from gmn_opt.inr import SirenConfig, coordinates, psnr
from gmn_opt.inr.fitting import as_targets, initial_params
from gmn_opt.optim import GMNOptimizer


def names_of(rates: str) -> list[str]:
    """All fitters, with Adam at these rates; raises ValueError for what is no rate."""
    parts = [r.strip() for r in rates.split(",")]
    try:
        right = all(0 < float(r) < math.inf for r in parts)
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"--rates takes positive numbers such as 0.001,0.003, received {rates!r}.")
    return ["gmn", *(f"{kind} {r}" for kind in ("adam", "adam-cosine") for r in parts)]


def make_fitter(name: str, net: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """``"gmn"``, ``"adam RATE"`` or ``"adam-cosine RATE"``; raises ValueError for other names."""
    kind, _, rate = name.partition(" ")
    if kind not in ("gmn", "adam", "adam-cosine"):
        raise ValueError(f"Unknown fitter {name!r}; there are gmn, adam RATE and adam-cosine RATE.")
    optimizer: torch.optim.Optimizer
    if kind == "gmn":
        optimizer = GMNOptimizer(net.parameters(), total_steps=steps)
    else:
        optimizer = torch.optim.Adam(net.parameters(), lr=float(rate))

    def factor(step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / steps)) if kind == "adam-cosine" else 1.0

    return optimizer, LambdaLR(optimizer, factor)


def fit(name: str, target: Tensor, key: int, steps: int, every: int) -> list[dict[str, float]]:
    """One INR fitted to ``target`` [H, W, C]; PSNR and CPU seconds of the steps at times."""
    config = SirenConfig(outputs=target.shape[-1])
    net = config.build()
    net.load_state_dict({n: p[0] for n, p in initial_params(net, 0, [key]).items()})
    points, wanted = coordinates((target.shape[0], target.shape[1])), target.flatten(0, 1)
    optimizer, schedule = make_fitter(name, net, steps)
    seconds, curve = 0.0, []
    for step in range(1, steps + 1):
        started = time.process_time()
        optimizer.zero_grad()
        (net(points) - wanted).square().mean().backward()
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - started
        if step % every == 0 or step == steps:
            with torch.no_grad():
                found = psnr(net(points).view_as(target), target)
            curve.append({"step": step, "seconds": round(seconds, 4), "psnr": float(found)})
    return curve


def summary(curves: list[list[dict[str, float]]], goal: float) -> dict[str, Any]:
    """Means over images; steps and seconds to the goal over those that reach it."""
    first = [next((c for c in curve if c["psnr"] >= goal), None) for curve in curves]
    reached = [c for c in first if c is not None]
    return {
        "psnr": mean(c[-1]["psnr"] for c in curves),
        "milliseconds_per_step": 1000 * mean(c[-1]["seconds"] / c[-1]["step"] for c in curves),
        "reached": len(reached),
        "steps_to_goal": mean(c["step"] for c in reached) if reached else None,
        "seconds_to_goal": mean(c["seconds"] for c in reached) if reached else None,
    }


def plot(results: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """Mean PSNR over steps and over seconds."""
    rates = sorted({name.partition(" ")[2] for name in results} - {""}, key=float)
    with picture(path, 8, 4) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for name, curves in results.items():
            points = list(zip(*curves, strict=True))
            shown = [mean(c["psnr"] for c in p) for p in points]
            kind, _, rate = name.partition(" ")
            style: dict[str, Any] = {"linewidth": 2.2, "color": "black"}
            if rate:
                line = "--" if kind.endswith("cosine") else "-"
                style = {"linewidth": 1.2, "color": f"C{rates.index(rate)}", "linestyle": line}
            for axis, key in zip(axes, ("step", "seconds"), strict=True):
                axis.plot([mean(c[key] for c in p) for p in points], shown, label=name, **style)
        for axis, label in zip(axes, ("steps", "CPU seconds"), strict=True):
            axis.set_xlabel(label)
        axes[0].set_ylabel("PSNR in dB, mean over images")
        legend_below(figure, 4)


def main(
    out: frame.Out = Path("runs/inr_fitters"),
    data: Annotated[str, typer.Option(help="mnist or fashion_mnist")] = "fashion_mnist",
    images: Annotated[int, typer.Option(min=1, help="Test images, one INR each.")] = 4,
    steps: Annotated[int, typer.Option(min=1)] = 300,
    every: Annotated[int, typer.Option(min=1, help="Steps between looks at the PSNR.")] = 10,
    rates: Annotated[str, typer.Option(help="Of Adam.")] = "0.0003,0.001,0.003,0.01",
    goal: Annotated[float, typer.Option(help="PSNR to reach, in dB.")] = 30.0,
    threads: frame.Threads = 1,
) -> None:
    """Compare optimizers as fitters."""
    console = frame.begin(threads)
    with frame.refusing(console):
        targets = as_targets(load_bundled(data).test_images[:images], SirenConfig())
        names = names_of(rates)
        out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[list[dict[str, float]]]] = {name: [] for name in names}
    for key, target in enumerate(targets):  # by turns, so that all meet what else the machine does
        for name in names:
            results[name].append(fit(name, target, key, steps, every))
    found = {name: summary(curves, goal) for name, curves in results.items()}
    facts = {"data": data, "images": images, "steps": steps, "goal_db": goal}
    frame.write_record(out / "result.json", {**facts, "summary": found, "curves": results})
    plot(results, out / "curves.png")
    rows = []
    for name, f in found.items():
        to = f["steps_to_goal"]
        reached = ["-", "-"] if to is None else [f"{to:.0f}", f"{f['seconds_to_goal']:.2f}"]
        rows.append([name, f"{f['psnr']:.1f}", f"{f['milliseconds_per_step']:.2f}", *reached])
    columns = ("fitter", "dB at the end", "ms/step", f"steps to {goal:g} dB", "seconds")
    console.print(frame.table(f"{images} SIRENs 2-32-32-1, {data}, {steps} steps", columns, rows))


if __name__ == "__main__":
    typer.run(main)
