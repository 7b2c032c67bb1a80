"""Cost of an optimizer's step: ``python -m experiments.benchmarks.step_cost --out runs/step_cost``.

Processor time of ``step()`` on one thread for models of several kinds, means, beside the forward
and backward pass of the same batch: GMNOptimizer, AdamW with ``foreach``, and Muon on hidden
matrices and flattened kernels (five Newton-Schulz steps in bfloat16, as ``torch.optim.Muon``) with
AdamW on the rest. All take a step on the same batch in turn, so what disturbs the machine disturbs
all of them. The metanet runs at one step of twenty: its steps and the others are averaged with the
shares that they have in a long training. ``--large`` adds GPT-2 small (124 million parameters,
a few steps, some minutes). Writes ``result.json``, and prints the table.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track
from torch import nn

from experiments import frame
from gmn_opt import GMNOptimizer, trace
from gmn_opt.cli.bench.muon import MuonAdamW, hidden_matrices, split
from gmn_opt.optim import load_rule
from tasks.base import DataTask
from tasks.classification import ImageClassification, PatchClassification
from tasks.language import SourceCode
from tasks.networks.transformer import GPT

app = typer.Typer(add_completion=False)
IMAGES = "fashion_mnist"
WARMUP = 3
LARGE_STEPS = 5


def models() -> dict[str, DataTask]:
    """What is trained, by name."""
    return {
        "MLP 784-128-128-10": ImageClassification(IMAGES, 28, (128, 128), batch_size=128),
        "MLP 784-512-512-10": ImageClassification(IMAGES, 28, (512, 512), batch_size=128),
        "CNN 16-32": ImageClassification(IMAGES, 28, (16, 32), "strided", batch_size=64),
        "ResNet 16-32-64": ImageClassification(
            IMAGES, 28, (16, 32, 64), "resnet", "batch", batch_size=64
        ),
        "ViT 64, 4 blocks": PatchClassification(IMAGES, 28, 64, 4, patch=4, heads=4, batch_size=64),
        "GPT 128, 4 blocks": SourceCode(
            "stdlib_held_out", 128, 4, length=64, alphabet="ascii", heads=4, batch_size=16
        ),
    }


def large() -> dict[str, DataTask]:
    """GPT-2 small: the size of its table of symbols is its own, the text is not."""
    return {"GPT-2 small": _GPT2("stdlib_held_out", 768, 12, length=64, alphabet="ascii", heads=12,
                                 batch_size=1)}  # fmt: skip


class _GPT2(SourceCode):
    def build(self) -> nn.Module:
        """50,257 symbols, the output layer tied to the table."""
        sizes = (self.length, self.width, self.depth, self.heads)
        return GPT(50_257, *sizes, "gelu", expansion=4, tied=True)


def optimizer(name: str, model: nn.Module, task: DataTask) -> torch.optim.Optimizer:
    """One of the three."""
    inputs = task.example_inputs()
    if name == "gmn":
        return GMNOptimizer(
            model.parameters(), total_steps=1000, model=model, example_inputs=inputs
        )
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), foreach=True)
    matrices = hidden_matrices(trace(model, *inputs, verify=False))
    return MuonAdamW(*split(model, matrices), lr=0.02)


def measure(
    task: DataTask, steps: int, names: Sequence[str] = ("gmn", "muon", "adamw")
) -> dict[str, Any]:
    """Milliseconds by optimizer, and of a forward and backward pass."""
    times: dict[str, list[float]] = {"pass": [], "thinking": []}
    rule = load_rule("default")
    torch.manual_seed(0)
    start = task.build().state_dict()
    runs = {}
    for name in names:
        model = task.build()
        model.load_state_dict(start)
        runs[name] = model, optimizer(name, model, task)
        times[name] = []
    generator = torch.Generator().manual_seed(0)
    for step in range(WARMUP + steps):
        batch = {k: t[0] for k, t in task.batch("inner_train", 1, generator).items()}
        for name, (model, opt) in runs.items():
            opt.zero_grad()
            began = time.process_time()
            task.loss(dict(model.named_parameters()), batch).backward()
            passed = time.process_time()
            opt.step()
            ended = time.process_time()
            thinks = name == "gmn" and rule.thinks(step)
            if step >= WARMUP:
                times["thinking" if thinks else name].append(1e3 * (ended - passed))
                times["pass"].append(1e3 * (passed - began))
    found = {name: statistics.fmean(_inner(values)) for name, values in times.items() if values}
    if "gmn" in found:
        share = 1 / rule.config.every
        found["gmn"] += share * (found["thinking"] - found["gmn"])
    count = sum(p.numel() for p in model.parameters())
    return {"parameters": count, "steps": steps, "milliseconds": found}


def measure_apart(task: DataTask, steps: int) -> dict[str, Any]:
    """The same, one optimizer after the other: for what does not fit into memory three times."""
    parts = [measure(task, steps, (name,)) for name in ("gmn", "muon", "adamw")]
    ms = {name: value for part in parts for name, value in part["milliseconds"].items()}
    return {**parts[0], "milliseconds": ms}


def _inner(values: list[float]) -> list[float]:
    """Without the slowest twentieth, which belongs to other processes."""
    kept = sorted(values)
    return kept[: max(1, round(0.95 * len(kept)))]


@app.command()
def main(
    out: frame.Out = Path("runs/step_cost"),
    steps: Annotated[int, typer.Option(help="Measured steps per model.")] = 40,
    large_too: Annotated[
        bool, typer.Option("--large", help="GPT-2 small as well, a few steps of it.")
    ] = False,
    only: Annotated[str, typer.Option(help="Models with this in their names.")] = "",
    threads: frame.Threads = 1,
) -> None:
    """Measure what a step costs."""
    console = frame.begin(threads)
    listed = {**models(), **(large() if large_too else {})}
    chosen = {name: task for name, task in listed.items() if only in name}
    rows, results = [], {}
    for name, task in track(chosen.items(), "Steps", console=console, transient=True):
        apart = name in large()
        results[name] = measure_apart(task, LARGE_STEPS) if apart else measure(task, steps)
        ms = results[name]["milliseconds"]
        rows.append([name, f"{results[name]['parameters']:,}"]
                    + [f"{ms[k]:.2f}" for k in ("gmn", "muon", "adamw", "pass")]
                    + [f"{ms['gmn'] / ms['muon']:.2f}"])  # fmt: skip
    columns = ("model", "parameters", "GMN", "Muon", "AdamW", "pass", "GMN / Muon")
    console.print(frame.table("Milliseconds per step, one thread", columns, rows))
    frame.write_record(out / "result.json", {"models": results, "threads": threads})
    console.print(f"Wrote {out / 'result.json'}")


if __name__ == "__main__":
    app()
