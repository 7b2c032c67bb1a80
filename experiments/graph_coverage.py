"""Trace many architectures and publish what was found: spaces, coverage, error and time.

    python -m experiments.graph_coverage --out experiments/results/graph_coverage

Every model of the tests' case table and, where the libraries are installed, every ``transformers``
config and every ``torchvision`` and ``timm`` model of theirs: random weights, one trace, and the
largest relative change of the outputs in float64 under random symmetries, with all parameters and
running statistics drawn anew. Large models are traced on the meta device, where there is nothing
to compare.
"""

from __future__ import annotations

import importlib.util
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from experiments import frame
from gmn_opt.graph import trace
from gmn_opt.graph.verify import Checker
from tests.cases import CASES
from tests.transformer_cases import BIG, EXPECTED, HUB
from tests.vision_cases import VISION, has, import_torchvision

Model = tuple[str, str, Callable[[], "Made"], int | None]
Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
OUT = Path("experiments/results/graph_coverage")


@dataclass(frozen=True)
class Row:
    """What the trace of one model gave.

    ``by_hand`` is the number of spaces by theory, where somebody has derived it; ``error`` is None
    where nothing can be computed.
    """

    family: str
    model: str
    parameters: int
    tensors: int
    spaces: int
    by_hand: int | None
    conditional: int
    coverage: float
    error: float | None
    seconds: float


def models() -> Iterator[Model]:
    """Family, name, maker and spaces by hand of every model."""
    for case in CASES:
        family = "adversarial" if "adversarial" in case.tags else "hand-written"
        yield family, case.name, partial(_with_positions, case.make), case.spaces
    if importlib.util.find_spec("transformers") is None:
        return
    if has("torchvision"):
        import_torchvision()  # before transformers does
    for hub in HUB:
        make = partial(_with_keywords, hub.make)
        yield hub.family, f"transformers/{hub.name}", make, len(EXPECTED[hub.name])


def big_models() -> Iterator[Model]:
    """Models of real size, on the meta device."""
    if importlib.util.find_spec("transformers") is not None:
        for hub in BIG:
            make = partial(_with_keywords, hub.meta)
            yield "meta device", f"transformers/{hub.name}", make, None
    for case in VISION:
        if has(case.library):
            make = partial(_with_positions, case.meta)
            yield "meta device", f"{case.library}/{case.name}", make, case.spaces


def _with_positions(make: Callable[[], tuple[nn.Module, tuple[Any, ...]]]) -> Made:
    model, args = make()
    return model, args, {}


def _with_keywords(make: Callable[[], tuple[nn.Module, dict[str, Any]]]) -> Made:
    model, kwargs = make()
    return model, (), kwargs


def examine(
    family: str, name: str, made: Made, by_hand: int | None, symmetries: int, seed: int
) -> Row:
    """Trace one model and check what was found."""
    model, args, kwargs = made
    start = time.perf_counter()
    graph = trace(model, *args, **kwargs)
    seconds = time.perf_counter() - start
    error: float | None = None
    if not any(p.device.type == "meta" for p in model.parameters()):
        checker = Checker(model, args, kwargs, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        error = max(checker.change(graph.random_symmetry(generator)) for _ in range(symmetries))
    return Row(
        family,
        name,
        sum(p.numel() for p in model.parameters()),
        len(graph.shapes),
        len(graph.spaces),
        by_hand,
        sum(bool(s.parents) for s in graph.spaces),
        graph.coverage(),
        error,
        seconds,
    )


def markdown(rows: list[Row], env: dict[str, Any], peak: int, note: str = "") -> str:
    """The rows as one table per family."""
    lines = ["# What tracing finds", ""]
    lines += [
        "Written by `python -m experiments.graph_coverage`. Spaces are the index sets whose order "
        "is free: those found and, behind a slash, those derived by hand. Conditional ones may be "
        "permuted anew within each head or group. Coverage is the share of parameter elements "
        "along at least one space; it hides losses that the count of spaces shows. Error is "
        "the largest relative change of the outputs in float64 under random symmetries, with every "
        "parameter and running statistic drawn anew. Seconds are one trace, numerical check "
        "included where the model is small.",
        "",
        f"torch {env['torch']}, Python {env['python']}, {env['processor']}, "
        f"{env['threads']} thread(s); {_sources()}; at most {peak / 2**30:.1f} GiB of memory.",
    ]
    if note:
        lines += ["", note]
    for family in dict.fromkeys(r.family for r in rows):
        lines += [
            "",
            f"## {family[0].upper()}{family[1:]}",
            "",
            "| model | parameters | spaces | conditional | coverage | error | seconds |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for r in rows:
            if r.family == family:
                spaces = str(r.spaces) if r.by_hand is None else f"{r.spaces} / {r.by_hand}"
                error = "" if r.error is None else f"{r.error:.0e}"
                lines.append(
                    f"| {r.model} | {r.parameters:,} | {spaces} | {r.conditional} "
                    f"| {r.coverage:.1%} | {error} | {r.seconds:.2f} |"
                )
    return "\n".join(lines) + "\n"


def _sources() -> str:
    """Versions of the libraries that models came from, and which were missing."""
    names = ("transformers", "torchvision", "timm")
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed, its models left out")
    return ", ".join(found)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = OUT,
    symmetries: Annotated[int, typer.Option(help="Random symmetries per model.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Seed of weights and symmetries.")] = 0,
    threads: frame.Threads = 1,
    only: Annotated[str, typer.Option(help="Only models whose name contains this.")] = "",
    note: Annotated[str, typer.Option(help="What one must know of this run.")] = "",
    big: Annotated[bool, typer.Option(help="Also models of real size, on the meta device.")] = True,
) -> None:
    """Trace all models and write result.json and README.md."""
    console = frame.begin(threads)
    todo = [x for x in (*models(), *(big_models() if big else ())) if only in x[1]]
    if not todo:
        raise typer.BadParameter(f"no model has {only!r} in its name", param_hint="--only")
    rows: list[Row] = []
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn()) as progress:
        task = progress.add_task("tracing", total=len(todo))
        for family, name, make, by_hand in todo:
            progress.update(task, description=name)
            rows.append(examine(family, name, make(), by_hand, symmetries, seed))
            progress.advance(task)
    env = frame.environment()
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    record = {
        "environment": env,
        "peak_memory_bytes": peak,
        "note": note,
        "rows": [asdict(r) for r in rows],
    }
    frame.write_json(out / "result.json", record)
    frame.write_text(out / "README.md", markdown(rows, env, peak, note))
    console.print(f"{len(rows)} models in {out / 'README.md'}")


if __name__ == "__main__":
    typer.run(main)
