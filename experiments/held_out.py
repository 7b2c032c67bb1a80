"""The held-out suite: ``python -m experiments.held_out --weights RUN/weights.safetensors``.

Trains the networks of ``tasks.suites.held_out`` with the learned rule (knowing the number of steps
and not), with the same rule before meta-training, and with AdamW at its default and at the best of
six constant rates, from the same initializations. The best rate is the one of the lowest mean
training loss over the seeds. Writes ``result.json`` and ``curves.png`` to --out.

All but the first two do not depend on the weights: with ``--baselines DIR`` those that an earlier
record of the same suite, steps and seeds holds are taken from there, and what it lacks is run. The
record is written after every training, so that one that was stopped, by ``--minutes`` say, serves
as well; picture and table show the tasks that are complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track
from rich.table import Table
from torch import Tensor

from experiments import frame
from gmn_opt.cli import contest
from gmn_opt.figures import legend_below, picture
from gmn_opt.meta import InnerState, Task, train_inner
from gmn_opt.meta.unroll import flat_gradients
from gmn_opt.metanet import blocked
from gmn_opt.optim import LearnedRule, load_rule
from tasks.base import DataTask
from tasks.suites import held_out, validation

RATES = (*contest.RATES, 1e-1)
DEFAULT_RATE = contest.DEFAULT_RATE
#: Examples at most that a trained network is judged on.
_JUDGED = 2000
SUITES = {"held_out": held_out, "validation": validation}


@dataclass(frozen=True)
class Judged:
    """Per seed: loss on fixed training and test examples; accuracy where there are classes."""

    loss: list[float]
    test_loss: list[float]
    test_accuracy: list[float] | None


@dataclass(frozen=True)
class Outcome:
    """How a run ended, its minibatch ``losses`` [steps, seeds], and its time."""

    judged: Judged
    losses: Tensor
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Every tenth minibatch loss, averaged over seeds, stands for the curve."""
        curve = self.losses.mean(1)[::10].tolist()
        accuracy = self.judged.test_accuracy
        return {
            "final_train_loss": self.judged.loss,
            "final_test_loss": self.judged.test_loss,
            **({} if accuracy is None else {"test_accuracy": accuracy}),
            "seconds": self.seconds,
            "curve_every_10_steps": [round(x, 5) for x in curve],
        }


def train_adamw(task: Task, steps: int, count: int, seed: int, lr: float) -> tuple[Tensor, Tensor]:
    """AdamW on ``count`` networks at once: final parameters [count, P], losses [steps, count].

    AdamW treats every element by itself, so one flat parameter is the same as many. Initial
    weights and batches are those of ``train_inner`` with the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    theta = InnerState.initial(task, count, generator).theta.requires_grad_()
    gradients = flat_gradients(task)
    opt = torch.optim.AdamW([theta], lr=lr)
    losses = []
    for _ in range(steps):
        batch = task.batch("inner_train", count, generator)
        theta.grad, value = gradients(theta.detach(), batch)
        losses.append(value)
        opt.step()
    return theta.detach(), torch.stack(losses)


@torch.no_grad()
def judge(task: DataTask, theta: Tensor) -> Judged:
    """Every network of ``theta`` [count, P] on fixed examples."""
    layout = blocked(task.graph)
    loss, test_loss, accuracy = [], [], []
    for k in range(len(theta)):
        params = layout.unflatten(theta[k])
        loss.append(float(task.loss(params, task.examples("inner_train", _JUDGED, k))))
        test = task.examples("test", _JUDGED, k)
        test_loss.append(float(task.loss(params, test)))
        output = torch.func.functional_call(task.template, params, task.inputs(test))
        share = task.accuracy(output, test)
        accuracy.append(None if share is None else float(share))
    known = [a for a in accuracy if a is not None]
    return Judged(loss, test_loss, known or None)


def contestants(
    rule: LearnedRule, steps: int, count: int, seed: int
) -> dict[str, Callable[[Task], tuple[Tensor, Tensor]]]:
    """Name to a function that trains: final parameters and losses."""

    def learned(rule: LearnedRule, horizon: int | None) -> Callable[[Task], tuple[Tensor, Tensor]]:
        def run(task: Task) -> tuple[Tensor, Tensor]:
            state, losses = train_inner(rule, task, steps, count, seed, horizon)
            return state.theta, losses

        return run

    def adamw(lr: float) -> Callable[[Task], tuple[Tensor, Tensor]]:
        return lambda task: train_adamw(task, steps, count, seed, lr)

    runs = {
        "gmn": learned(rule, None),
        "gmn, total_steps": learned(rule, steps),
        "gmn, frozen": learned(load_rule("initial"), None),
    }
    return runs | {f"adamw {lr:g}": adamw(lr) for lr in RATES}


#: Contestants that the weights make.
OURS = ("gmn", "gmn, total_steps")
#: What two records must have in common so that their runs compare.
_PROTOCOL = ("suite", "steps", "seeds", "seed")


def read_baselines(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record in ``folder``; raises ValueError when it was made otherwise than ``record``."""
    found = frame.read_json(folder / "result.json")
    theirs, mine = ([r.get(k) for k in _PROTOCOL] for r in (found, record))
    if theirs != mine:
        raise ValueError(
            f"The baselines in {folder} were run with {', '.join(_PROTOCOL)} = {theirs}, this "
            f"comparison asks for {mine}. Leave --baselines out to run them anew."
        )
    return found


def summary(outcomes: dict[str, Any]) -> dict[str, Any]:
    """Losses of the learned rule, of AdamW at its default and best rate, and their ratios.

    ``outcomes`` as in records, see ``Outcome.to_json``.
    """
    losses = {name: o["final_train_loss"] for name, o in outcomes.items()}
    mean = {name: sum(values) / len(values) for name, values in losses.items()}
    tuning = contest.tune({lr: losses[f"adamw {lr:g}"] for lr in RATES})
    default, best = f"adamw {DEFAULT_RATE:g}", f"adamw {tuning.best:g}"
    gmn = [*OURS, "gmn, frozen"]
    return {
        "best_rate": tuning.best,
        "best_rate_at_edge": tuning.at_edge,
        "final_train_loss": {
            **{name: mean[name] for name in gmn},
            "adamw default": mean[default],
            "adamw best": mean[best],
        },
        "ratio_to_adamw_default": {n: contest.ratios(losses[n], losses[default]) for n in gmn},
        "ratio_to_adamw_best": {n: contest.ratios(losses[n], losses[best]) for n in gmn},
    }


def table(results: dict[str, Any]) -> Table:
    """A line per task."""
    losses = {name: facts["summary"]["final_train_loss"] for name, facts in results.items()}
    columns = list(next(iter(losses.values())))
    rows = [[name, *(f"{found[c]:.4f}" for c in columns)] for name, found in losses.items()]
    return frame.table("final training loss, mean over seeds", ["task", *columns], rows)


def plot(results: dict[str, Any], path: Path) -> None:
    """Training loss over steps, one panel per task."""
    gmn = [*OURS, "gmn, frozen"]
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    with picture(path, 3.4 * columns, 2.8 * rows + 0.6) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for unused in axes.flat[len(results) :]:
            unused.set_axis_off()
        for axis, (name, facts) in zip(axes.flat, results.items(), strict=False):
            best, default = f"adamw {facts['summary']['best_rate']:g}", f"adamw {DEFAULT_RATE:g}"
            shown = {who: (who, f"C{k}") for who, k in zip(gmn, (0, 5, 6), strict=True)}
            shown[f"{default}, default"] = (default, "C3")
            shown["adamw, best rate"] = (best, "C1")
            for label, (who, colour) in shown.items():
                curve = torch.tensor(facts["outcomes"][who]["curve_every_10_steps"])
                smooth = curve.unfold(0, 5, 1).mean(1) if len(curve) > 10 else curve
                steps = 10 * torch.arange(len(smooth)) + (20 if len(curve) > 10 else 0)
                axis.semilogy(steps, smooth, colour, label=label, linewidth=1.2)
            axis.set_title(name)
            axis.set_xlabel("step")
        for row in axes:
            row[0].set_ylabel("training loss")
        legend_below(figure)


def write_record(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """``result.json``, its tasks with a summary where all contestants have run; these tasks."""
    tasks: dict[str, Any] = {}
    for name, found in record["tasks"].items():
        whole = len(found) == len(OURS) + 1 + len(RATES)
        tasks[name] = {**({"summary": summary(found)} if whole else {}), "outcomes": found}
    frame.write_record(folder / "result.json", {**record, "tasks": tasks})
    return tasks


def main(
    weights: frame.Weights = "default",
    out: frame.Out = Path("runs/held_out"),
    suite: Annotated[str, typer.Option(help="held_out or validation")] = "held_out",
    steps: Annotated[int, typer.Option()] = 500,
    seeds: Annotated[int, typer.Option(help="Networks per task.")] = 3,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 2024,
    threads: frame.Threads = 1,
    baselines: Annotated[
        Path | None, typer.Option(help="Folder of a record to take all else but the weights from.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no training after this many minutes.")
    ] = None,
) -> None:
    """Compare the learned rule with AdamW on a suite."""
    console = frame.begin(threads)
    record: dict[str, Any] = {"suite": suite, "steps": steps, "seeds": seeds, "seed": seed}
    record["weights"] = str(weights)
    with frame.refusing(console):
        frame.choose("suite", suite, SUITES)
        runs = contestants(load_rule(weights), steps, seeds, seed)
        tasks = SUITES[suite]()
        outcomes: dict[str, dict[str, Any]] = {task.name: {} for task in tasks}
        record["tasks"] = outcomes
        if baselines is not None:
            earlier = read_baselines(baselines, record)
            record["baselines"] = {k: earlier[k] for k in ("command", "environment")}
            for name in outcomes.keys() & earlier["tasks"].keys():
                known = earlier["tasks"][name]["outcomes"]
                outcomes[name] = {who: o for who, o in known.items() if who not in OURS}
        out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    jobs = [(t, name) for t in tasks for name in runs if name not in outcomes[t.name]]
    for task, name in track(jobs, "training", console=console, disable=not console.is_terminal):
        started = time.perf_counter()
        if minutes is not None and started - begun > 60 * minutes:
            console.print(f"Stopped after {minutes:g} minutes.")
            break
        theta, losses = runs[name](task)
        seconds = time.perf_counter() - started
        outcomes[task.name][name] = Outcome(judge(task, theta), losses, seconds).to_json()
        write_record(out, record)
    whole = {name: f for name, f in write_record(out, record).items() if "summary" in f}
    if whole:
        plot(whole, out / "curves.png")
        console.print(table(whole))


if __name__ == "__main__":
    typer.run(main)
