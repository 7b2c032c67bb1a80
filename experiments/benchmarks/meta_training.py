"""Speed of meta-training: ``python -m experiments.benchmarks.meta_training --preset smoke|cpu``.

Counts inner steps (networks times steps) per second of processor time, meta-gradient included, over
the number of networks and the length of the truncation window, and the peak memory of the process.
Two ways to meta-train: the default graph metanetwork with truncated backpropagation, and a rule of
a few hundred meta-parameters with persistent evolution strategies, where both members of an
antithetic pair count. Each against a plain loop that trains one network after the other.

The reference task is 16 MLPs 64-32-10 on 8x8 digits, batch 64, windows of 50 steps. Every case runs
in a process of its own, on one thread. Writes ``result.json`` and ``README.md`` to --out; with
--peer, what ``meta_training_peer.py`` found of learned_optimization on this machine stands there as
well.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track
from torch import Tensor
from torch.func import functional_call

from experiments import frame
from gmn_opt.meta import (
    Constant,
    InnerState,
    PersistentES,
    SmallRule,
    TruncatedBackprop,
    Window,
    build_rule,
)
from gmn_opt.meta.estimators.evolution import draw_perturbations, own_parameters
from gmn_opt.meta.rules import Rule, flat_vector, named_like
from gmn_opt.meta.unroll import relative_scale, step_weights
from gmn_opt.metanet import blocked
from gmn_opt.optim import StepInputs
from gmn_opt.optim.rule import RuleConfig
from tasks.classification import ImageClassification

_MODULE = "experiments.benchmarks.meta_training"
WAYS = ("gmn_backprop", "gmn_backprop_loop", "small_pes", "small_pes_loop")
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Case:
    """What is measured: one of ``WAYS``, number of tasks, window. PES trains each task twice."""

    way: str
    tasks: int
    truncation: int

    @property
    def networks(self) -> int:
        """Trained side by side."""
        return self.tasks * (2 if self.way.startswith("small_pes") else 1)


PRESETS: dict[str, tuple[list[Case], float]] = {
    "smoke": ([Case(way, 2, 5) for way in WAYS], 0.1),
    "cpu": (
        [
            *(Case(way, 16, 50) for way in WAYS),
            *(Case(way, n, 50) for way in ("gmn_backprop", "small_pes") for n in (1, 4, 64)),
            *(Case(way, 16, t) for way in ("gmn_backprop", "small_pes") for t in (10, 200)),
        ],
        15.0,
    ),
}


def reference_task() -> ImageClassification:
    """MLP 64-32-10 on 8x8 digits, batch 64."""
    return ImageClassification("digits", 8, (32,), batch_size=64)


# ---- one network after the other


def _lonely_step(
    task: ImageClassification, theta: Tensor, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradient ``[P]`` and loss of one network, as anyone would write it."""
    layout = blocked(task.graph)
    leaves = {n: p.detach().requires_grad_() for n, p in layout.unflatten(theta).items()}
    loss = task.judge(functional_call(task.template, leaves, (batch["x"],)), batch)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return layout.flatten(dict(zip(leaves, grads, strict=True))), loss.detach()


def loop_backprop(rule: Rule, window: Window) -> tuple[list[Tensor], InnerState]:
    """First-order meta-gradients of ``window``, network by network: their mean."""
    count = window.state.theta.shape[0]
    total: list[Tensor] = [torch.zeros_like(p) for p in rule.parameters()]
    thetas, moments = [], []
    batches = [window.task.batch("inner_train", count, window.generator)
               for _ in range(window.steps + 1)]  # fmt: skip
    task: Any = window.task
    for k in range(count):
        theta, moment, thought = _own_state(window.state, k)
        values: list[Tensor] = []
        for i, batch in enumerate(batches):
            grad, loss = _lonely_step(task, theta.detach(), {n: t[k] for n, t in batch.items()})
            values.append(loss + (grad * (theta - theta.detach())).sum())
            if i < window.steps:
                step = window.state.step + i
                known = task.graph, theta, grad, moment, step, window.horizon, True, thought
                delta, moment, thought = rule.flat_update(StepInputs(*known))
                theta = theta + delta
        losses = torch.stack(values)[:, None]
        weights = step_weights(window.steps, window.last_weight, losses)
        scale = relative_scale(losses.detach(), weights, window.largest_loss)
        meta_loss = (losses[1:] * scale * weights[:, None]).sum() / count
        grads = torch.autograd.grad(meta_loss, list(rule.parameters()), allow_unused=True)
        total = [t if g is None else t + g for t, g in zip(total, grads, strict=True)]
        thetas.append(theta.detach())
        moments.append(moment)
    state = InnerState(torch.stack(thetas), torch.stack(moments), window.state.step + window.steps)
    return total, state


def _own_state(state: InnerState, k: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Parameters, moments and thought of network ``k``."""
    return state.theta[k], state.moments[k], None if state.thought is None else state.thought[k]


def loop_pes(
    rule: SmallRule, window: Window, sigma: float
) -> tuple[Tensor, InnerState, dict[str, Tensor]]:
    """PES over ``window``, network by network: meta-gradient ``[M]``, state and memory."""
    own, pairs = own_parameters(rule), window.state.theta.shape[0] // 2
    eps = draw_perturbations(own, pairs, sigma, window.generator)
    base = flat_vector(own)
    versions = torch.cat([base + eps, base - eps])
    batches = [window.task.batch("inner_train", pairs, window.generator)
               for _ in range(window.steps + 1)]  # fmt: skip
    task: Any = window.task
    perturbed = build_rule(rule.config)
    columns, thetas, moments = [], [], []
    for k in range(2 * pairs):
        perturbed.load_state_dict(named_like(versions[k], own))
        theta, moment, thought = _own_state(window.state, k)
        values = []
        for i, batch in enumerate(batches):
            grad, loss = _lonely_step(task, theta, {n: t[k % pairs] for n, t in batch.items()})
            values.append(loss)
            if i < window.steps:
                step = window.state.step + i
                known = task.graph, theta, grad, moment, step, window.horizon, False, thought
                with torch.no_grad():
                    delta, moment, thought = perturbed.flat_update(StepInputs(*known))
                theta = theta + delta
        columns.append(torch.stack(values))
        thetas.append(theta)
        moments.append(moment)
    losses = torch.stack(columns, 1)
    weights = step_weights(window.steps, window.last_weight, losses)
    both = losses.unflatten(1, (2, pairs)).mean(1)
    scale = relative_scale(both, weights, window.largest_loss)
    each = (losses[1:] * weights[:, None]).sum(0).unflatten(0, (2, pairs)) * scale
    accumulated = window.memory["accumulated"] + eps
    slopes = (each[0] - each[1]) / (2 * sigma**2)
    state = InnerState(torch.stack(thetas), torch.stack(moments), window.state.step + window.steps)
    return slopes @ accumulated / pairs, state, {"accumulated": accumulated}


# ---- measuring


def stepper(case: Case, seed: int) -> tuple[Callable[[], None], int]:
    """A function that makes one window and its meta-gradient; the number of meta-parameters."""
    task, generator = reference_task(), torch.Generator().manual_seed(seed)
    small = case.way.startswith("small")
    rule: Any = SmallRule() if small else build_rule(RuleConfig())
    windows = Constant(case.truncation)
    estimator = PersistentES(windows=windows) if small else TruncatedBackprop(windows)
    state, memory = estimator.start(rule, task, case.networks, generator)
    held: dict[str, Any] = {"state": state, "memory": memory}

    def window() -> Window:
        return Window(
            task, held["state"], case.truncation, generator, 10_000, memory=held["memory"]
        )

    def fast() -> None:
        out = estimator.estimate(rule, window())
        held.update(state=out.state, memory=out.memory)

    def slow() -> None:
        if small:
            _, held["state"], held["memory"] = loop_pes(rule, window(), 0.01)
        else:
            _, held["state"] = loop_backprop(rule, window())

    return slow if case.way.endswith("loop") else fast, sum(p.numel() for p in rule.parameters())


def measure(case: Case, seed: int, seconds: float) -> dict[str, Any]:
    """Rates over at least ``seconds`` of processor time, after warming up."""
    frame.begin()
    step, meta_parameters = stepper(case, seed)
    started = time.process_time()
    for _ in range(1 + 20 // case.truncation):  # recordings of inner gradients are made on the way
        step()
    warming = time.process_time() - started
    per_window, spent = case.networks * case.truncation, 0.0
    rates: list[float] = []
    while spent < seconds or len(rates) < 3:
        started = time.process_time()
        step()
        took = time.process_time() - started
        spent += took
        rates.append(per_window / took)
    ordered = sorted(rates)
    return {
        **asdict(case),
        "networks": case.networks,
        "meta_parameters": meta_parameters,
        "inner_steps_per_cpu_second": len(rates) * per_window / spent,
        "median": ordered[len(ordered) // 2],
        "fastest": ordered[-1],
        "windows": len(rates),
        "load": os.getloadavg()[0],
        "warming_seconds": warming,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _in_a_process(case: Case, seed: int, seconds: float) -> dict[str, Any]:
    one = json.dumps([asdict(case), seed, seconds])
    command = [sys.executable, "-m", _MODULE, "--case", one]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def read_peer(path: Path) -> list[dict[str, Any]]:
    """What meta_training_peer.py wrote; raises ValueError for anything else."""
    found: Any = frame.read_json(path)
    keys = {"way", "meta_parameters", "inner_steps_per_cpu_second", "fastest", "peak_gib", "load"}
    whole = isinstance(found, list) and found
    if not whole or not all(isinstance(c, dict) and keys | {"jax"} <= c.keys() for c in found):
        raise ValueError(f"{path} is not what meta_training_peer.py writes: {str(found)[:80]}.")
    return list(found)


def page(result: dict[str, Any]) -> str:
    """The record as a page to read."""
    machine = result["environment"]
    lines = [
        "# Speed of meta-training",
        "",
        "Inner steps (networks times steps) per second of processor time, one thread, "
        f"{machine['processor']}, torch {machine['torch']}.",
        "MLPs 64-32-10 on 8x8 digits, batch 64. With PES both members of a pair count.",
        "`load` is how many processes wanted to run on the machine: beyond its number of cores, "
        "caches are shared and times are longer than they need be.",
        "",
        f"Made by `{result['command']}`.",
        "",
        "| | tasks | window | meta-parameters | steps/s | fastest | peak GiB | load |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {c['way']} | {c['tasks']} | {c['truncation']} | {c['meta_parameters']} | "
        f"{c['inner_steps_per_cpu_second']:.0f} | {c['fastest']:.0f} | {c['peak_gib']:.2f} | "
        f"{c['load']:.1f} |"
        for c in result["cases"]
    ]
    if result["peer"]:
        lines += [
            "",
            f"Google's learned_optimization (JAX {result['peer'][0]['jax']}) on the same machine, "
            "16 such tasks, window 50, its MLP rules:",
            "",
            "| | meta-parameters | steps/s | fastest | peak GiB | load |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {c['way']} | {c['meta_parameters']} | {c['inner_steps_per_cpu_second']:.0f} | "
            f"{c['fastest']:.0f} | {c['peak_gib']:.2f} | {c['load']:.1f} |"
            for c in result["peer"]
        ]
    return "\n".join(lines) + "\n"


@app.command()
def main(
    preset: Annotated[str, typer.Option(help="smoke or cpu")] = "cpu",
    seed: frame.Seed = 0,
    out: frame.Out = Path("runs/benchmark_meta_training"),
    peer: Annotated[
        Path | None, typer.Option(help="What meta_training_peer.py wrote, for the record.")
    ] = None,
    case: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure all cases of a preset."""
    if case is not None:  # this process is one of those that measure
        sizes, seed, seconds = json.loads(case)
        typer.echo(json.dumps(measure(Case(**sizes), seed, seconds)))
        return
    console = frame.begin()
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        others = [] if peer is None else read_peer(peer)
    cases, seconds = PRESETS[preset]
    shown = console.is_terminal
    found = [
        _in_a_process(one, seed, seconds)
        for one in track(cases, "measuring", console=console, disable=not shown)
    ]
    facts = {"preset": preset, "seed": seed, "cases": found, "peer": others}
    readme = page(frame.write_record(out / "result.json", facts))
    frame.write_text(out / "README.md", readme)
    console.print(readme, markup=False)


if __name__ == "__main__":
    app()
