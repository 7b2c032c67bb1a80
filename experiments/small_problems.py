"""Two hundred problems nobody tuned for: ``python -m experiments.small_problems --out runs/small``.

Random small problems, as users have them: one to four hidden layers of 8 to 64, with and without
layer norm, classification and regression, batches of 1 to 64, inputs scaled by 1e-3 to 1e3, labels
from a random teacher with noise. GMNOptimizer, with and without ``total_steps``, beside AdamW at
1e-3 and at 1e-2, from the same weights on the same batches. Counted are losses on all training
data at the end. A run diverges when that is not finite, or ten times what it was. Writes
``result.json``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from experiments import frame
from gmn_opt import GMNOptimizer

EXAMPLES, FEATURES = 1000, 16
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


@dataclass(frozen=True)
class Problem:
    """What is trained; ``classes`` is 0 for regression."""

    seed: int
    hidden: tuple[int, ...]
    norm: bool
    activation: str
    classes: int
    batch: int
    scale: float
    noise: float


def draw(seed: int) -> Problem:
    """A problem from its number."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def log_uniform(low: float, high: float) -> float:
        return math.exp(uniform(math.log(low), math.log(high)))

    depth = 1 + int(uniform(0, 4))
    return Problem(
        seed,
        tuple(round(log_uniform(8, 64)) for _ in range(depth)),
        uniform(0, 1) < 0.3,
        sorted(ACTIVATIONS)[int(uniform(0, 3))],
        int(uniform(2, 8)) if uniform(0, 1) < 0.5 else 0,
        round(log_uniform(1, 64)),
        log_uniform(1e-3, 1e3),
        uniform(0, 0.3),
    )


def data(problem: Problem) -> tuple[Tensor, Tensor]:
    """Inputs ``[EXAMPLES, FEATURES]`` and targets of a random teacher."""
    generator = torch.Generator().manual_seed(problem.seed + 10_000)
    plain = torch.randn(EXAMPLES, FEATURES, generator=generator)
    first = torch.randn(FEATURES, 12, generator=generator) / FEATURES**0.5
    second = torch.randn(12, max(problem.classes, 2), generator=generator)
    score = torch.tanh(2 * plain @ first) @ second
    score = score + problem.noise * score.std() * torch.randn(score.shape, generator=generator)
    return problem.scale * plain, score.argmax(1) if problem.classes else score


def build(problem: Problem) -> nn.Module:
    """The network."""
    torch.manual_seed(problem.seed)
    layers: list[nn.Module] = []
    width = FEATURES
    for size in problem.hidden:
        layers += [nn.Linear(width, size)]
        layers += [nn.LayerNorm(size)] if problem.norm else []
        layers += [ACTIVATIONS[problem.activation]()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, max(problem.classes, 2)))


def contestants(steps: int, weights: str) -> dict[str, Callable[[Iterator[Any]], Optimizer]]:
    """By name; each makes an optimizer of parameters."""
    return {
        "GMN, total_steps": lambda p: GMNOptimizer(p, total_steps=steps, weights=weights),
        "GMN": lambda p: GMNOptimizer(p, weights=weights),
        "AdamW 1e-3": lambda p: AdamW(p, lr=1e-3),
        "AdamW 1e-2": lambda p: AdamW(p, lr=1e-2),
    }


def train(problem: Problem, make: Callable[[Any], Optimizer], steps: int) -> tuple[float, float]:
    """Loss on all data before and after."""
    inputs, targets = data(problem)
    model = build(problem)
    loss_of = F.cross_entropy if problem.classes else F.mse_loss
    generator = torch.Generator().manual_seed(problem.seed)
    with torch.no_grad():
        before = float(loss_of(model(inputs), targets))
    opt = make(model.parameters())
    for _ in range(steps):
        rows = torch.randint(EXAMPLES, (problem.batch,), generator=generator)
        opt.zero_grad()
        loss_of(model(inputs[rows]), targets[rows]).backward()
        opt.step()
    with torch.no_grad():
        return before, float(loss_of(model(inputs), targets))


def shares(found: list[dict[str, Any]], name: str) -> dict[str, float]:
    """How often ``name`` was better than AdamW at 1e-3 and than the better of both; divergences."""
    ends = [f["final"] for f in found]
    return {
        "below AdamW 1e-3": sum(e[name] < e["AdamW 1e-3"] for e in ends) / len(ends),
        "not above the better AdamW": sum(
            e[name] <= min(e["AdamW 1e-3"], e["AdamW 1e-2"]) for e in ends
        )
        / len(ends),
        "diverged": sum(not e[name] < 10 * f["before"] for e, f in zip(ends, found, strict=True)),
    }


def main(
    out: frame.Out = Path("runs/small_problems"),
    count: Annotated[int, typer.Option(min=1, help="Problems.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = 400,
    seed: frame.Seed = 0,
    weights: frame.Weights = "default",
    threads: frame.Threads = 1,
) -> None:
    """Train all problems with all optimizers."""
    console = frame.begin(threads)
    warnings.simplefilter("ignore")
    found = []
    for number in track(range(count), "Problems", console=console, transient=True):
        problem = draw(seed * 1_000_000 + number)
        ends, before = {}, math.nan
        for name, make in contestants(steps, weights).items():
            before, ends[name] = train(problem, make, steps)
        found.append({"problem": asdict(problem), "before": before, "final": ends})
    names = ("GMN, total_steps", "GMN", "AdamW 1e-2")
    table = {name: shares(found, name) for name in names}
    facts = {"steps": steps, "seed": seed, "weights": weights, "summary": table, "runs": found}
    frame.write_record(out / "result.json", facts)
    columns = ("", *next(iter(table.values())))
    rows = [[name, *(f"{value:g}" for value in row.values())] for name, row in table.items()]
    console.print(frame.table(f"{count} problems, {steps} steps", columns, rows))


if __name__ == "__main__":
    typer.run(main)
