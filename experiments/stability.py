"""Long runs on a net that is wider and deeper than any meta-trained one.

``python -m experiments.stability --weights default``: 784-128-128-10 on Fashion-MNIST, 1000 and
3000 steps, knowing the number of steps and not. A run *diverges* when a loss is not finite or the
smoothed loss ends above where it began; its *worst rise* is the largest factor by which the
smoothed loss (mean of 50 steps) ever stood above its lowest value until then, after the first
tenth of the run; losses below 1e-4 count as that. Writes ``result.json`` and ``curves.png`` to
--out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from experiments import frame
from gmn_opt.figures import legend_below, picture
from gmn_opt.meta import Task, train_inner
from gmn_opt.optim import LearnedRule, load_rule
from tasks.classification import ImageClassification

SMOOTH = 50
#: Below this a loss is as good as none, and what it rises by says nothing.
LEAST = 1e-4
TASK = ImageClassification("fashion_mnist", 28, (128, 128), batch_size=128)


def smoothed(losses: Tensor) -> Tensor:
    """Means of ``losses`` [steps, networks] over windows of ``SMOOTH`` steps, at every step."""
    return losses.unfold(0, min(SMOOTH, len(losses)), 1).mean(-1)


def judge(losses: Tensor) -> dict[str, list[float] | list[bool]]:
    """Per network: final smoothed loss, worst rise, and whether it diverged."""
    smooth = smoothed(losses)
    bounded = smooth.clamp(min=LEAST)
    late = bounded[len(smooth) // 10 :]
    rise = late / bounded.cummin(0).values[-len(late) :]
    bad = ~losses.isfinite().all(0) | (smooth[-1] > losses[0])
    return {
        "final_train_loss": [round(x, 6) for x in smooth[-1].tolist()],
        "worst_rise": [round(x, 4) for x in rise.max(0).values.tolist()],
        "diverged": bad.tolist(),
    }


def measure(
    rule: LearnedRule, task: Task, steps: int, seeds: int, seed: int, device: torch.device
) -> dict[str, Any]:
    """Both modes of the rule on the same networks and batches."""
    found: dict[str, Any] = {}
    for mode, horizon in (("open", None), ("total_steps", steps)):
        started = time.perf_counter()
        _, losses = train_inner(rule, task, steps, seeds, seed, horizon, device)
        losses = losses.cpu()
        curve = smoothed(losses).mean(1)[::10]
        found[mode] = {
            **judge(losses),
            "seconds": round(time.perf_counter() - started, 1),
            "curve_every_10_steps": [round(x, 5) for x in curve.tolist()],
        }
    return found


def plot(results: dict[str, Any], path: Path) -> None:
    """Smoothed training loss over steps, one panel per length of run."""
    with picture(path, 5 * len(results), 3.8) as figure:
        axes = figure.subplots(1, len(results), squeeze=False)[0]
        for axis, (steps, modes) in zip(axes, results.items(), strict=True):
            for mode, facts in modes.items():
                curve = facts["curve_every_10_steps"]
                axis.semilogy([SMOOTH + 10 * i for i in range(len(curve))], curve, label=mode)
            axis.set_title(f"{steps} steps")
            axis.set_xlabel("step")
        axes[0].set_ylabel("training loss (mean of 50 steps)")
        figure.suptitle(TASK.name)
        legend_below(figure)


def main(
    weights: frame.Weights = "default",
    out: frame.Out = Path("runs/stability"),
    steps: Annotated[str, typer.Option(help="Lengths of runs, with commas.")] = "1000,3000",
    seeds: Annotated[int, typer.Option(help="Networks.")] = 3,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 2024,
    device: frame.Device = "auto",
    threads: frame.Threads = 1,
) -> None:
    """Train a deep MLP for long with the learned rule, and say how steady that is."""
    console = frame.begin(threads)
    with frame.refusing(console):
        lengths = frame.numbers(steps, "--steps")
        rule, where = load_rule(weights), frame.choose_device(device)
        results = {str(n): measure(rule.to(where), TASK, n, seeds, seed, where) for n in lengths}
    facts = {"task": TASK.spec(), "weights": weights, "seeds": seeds, "seed": seed, "runs": results}
    frame.write_record(out / "result.json", facts)
    plot(results, out / "curves.png")
    rows = []
    for n, modes in results.items():
        for mode, found in modes.items():
            losses, rises = found["final_train_loss"], found["worst_rise"]
            diverged = f"{sum(found['diverged'])} of {len(losses)}"
            mean = sum(losses) / len(losses)
            rows.append((n, mode, f"{mean:.4f}", f"{max(rises):.2f}", diverged))
    columns = ("steps", "mode", "final training loss", "worst rise", "diverged")
    console.print(frame.table(TASK.name, columns, rows))


if __name__ == "__main__":
    typer.run(main)
