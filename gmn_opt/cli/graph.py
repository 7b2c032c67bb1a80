"""`gmn-opt graph`: the parameter graph of a model, printed, checked and drawn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gmn_opt.cli.errors import fail
from gmn_opt.cli.frame import console
from gmn_opt.cli.models import parse_dtype, parse_input, prepare, trace_or_fail
from gmn_opt.cli.output import write_out

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gmn_opt.graph import ParameterGraph


def graph(
    model: Annotated[
        str, typer.Argument(metavar="MODULE:FACTORY", help="Where the model comes from.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="[NAME=]SHAPE",
            help="Shape of an example input, such as 1x3x32x32. May be repeated.",
        ),
    ] = None,
    dtypes: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            metavar="KIND",
            help="float, double, half, bfloat16, or long:N for integers below N; "
            "one for all inputs, or one each.",
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--draw", help="Draw to this .png, .svg or .pdf file.")
    ] = None,
    level: Annotated[
        str, typer.Option(metavar="LEVEL", help="What to draw: auto, neurons or layers.")
    ] = "auto",
    verify: Annotated[
        bool, typer.Option(help="Check the symmetries on a float64 copy of the model.")
    ] = True,
    meta: Annotated[
        bool, typer.Option("--meta", help="Build without memory for weights; for large models.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the graph to this file.")
    ] = None,
) -> None:
    """Trace a model, in evaluation mode, and show its parameter graph.

    MODULE:FACTORY is a class, a function that makes a model, or a model, such
    as torchvision.models:resnet18, or net.py:Net for a file.
    """
    specs = [parse_input(text) for text in inputs or []]
    kinds = [parse_dtype(text) for text in dtypes or ["float"]]
    if len(kinds) not in (1, len(specs)):
        fail(f"{len(kinds)} times --dtype for {len(specs)} inputs; give one for all, or one each")
    if level not in ("auto", "neurons", "layers"):
        fail(f"no level {level!r}; there are auto, neurons, layers")
    for path in (picture, json_file):
        if path is not None and not path.absolute().parent.is_dir():
            fail(f"cannot write {path}: {path.parent} is not a folder")
    if picture is not None:
        _check_suffix(picture)

    _show(model, specs, kinds, meta, verify and not meta, picture, level, json_file)


def _show(
    model: str,
    specs: list[tuple[str | None, tuple[int, ...]]],
    kinds: list[tuple[str, int]],
    meta: bool,
    verify: bool,
    picture: Path | None,
    level: str,
    json_file: Path | None,
) -> None:
    """Trace, check, draw, write and print; exit code 1 for a wrong symmetry."""
    from gmn_opt.graph.progress import progress_line

    facts: list[tuple[str, Text]] = []
    with progress_line() as say:
        say(f"Loading {model}")
        network, args, kwargs = prepare(model, specs, kinds, meta)
        if network.training:
            # Training mode needs more than one image where there is a batch norm.
            network.eval()
            facts.append(("mode", Text("evaluation (it came in training mode)")))
        start = time.perf_counter()
        traced = trace_or_fail(network, args, kwargs, verify, say)
        facts.append(("traced in", Text(f"{time.perf_counter() - start:.2f} s")))
        wrong = False
        if verify:
            say("Checking the symmetries in float64")
            wrong = _verify(traced, network, args, kwargs, facts)
        if picture is not None:
            say("Drawing")
            _draw(traced, picture, level)
            facts.append(("picture", Text(str(picture))))
        if json_file is not None:
            _write(json_file, traced.to_json())
            facts.append(("graph", Text(str(json_file))))
    _describe(traced, facts)
    screen = console()
    with screen.capture() as captured:
        screen.print(_grid(facts))
    write_out(f"{traced}\n\n{captured.get()}")
    if wrong:
        raise typer.Exit(1)


def _describe(traced: ParameterGraph, facts: list[tuple[str, Text]]) -> None:
    """Add what holds of the graph as a whole."""
    conditional = sum(bool(s.parents) for s in traced.spaces)
    spaces = f"{len(traced.spaces)}" + (f", {conditional} of them conditional" * bool(conditional))
    facts[0:0] = [("spaces", Text(spaces)), ("coverage", Text(f"{traced.coverage():.1%}"))]


def _grid(facts: list[tuple[str, Text]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for name, value in facts:
        grid.add_row(name, value)
    return grid


# ---------------------------------------------------------------------- what is done with it


def _check_suffix(picture: Path) -> None:
    from gmn_opt.graph.draw.picture import SUFFIXES

    if picture.suffix.lower() not in SUFFIXES:
        fail(f"cannot draw to {picture}: the name must end in {', '.join(SUFFIXES)}")


def _verify(
    traced: ParameterGraph,
    network: nn.Module,
    args: list[torch.Tensor],
    kwargs: dict[str, Any],
    facts: list[tuple[str, Text]],
) -> bool:
    """Add the largest change of the outputs to the facts; whether it is too large."""
    from gmn_opt.graph.verify import TOLERANCE

    try:
        change = traced.verify(network, *args, **kwargs)
    except Exception as error:
        text = f"not possible with this model: {type(error).__name__}: {error}"
        facts.append(("check", Text(text, style="yellow")))
        return False
    wrong = not change <= TOLERANCE
    verdict = "too much" if wrong else "nothing but rounding"
    text = f"outputs change by {change:.1e} (relative) under random symmetries: {verdict}"
    facts.append(("check", Text(text, style="red" if wrong else "green")))
    return wrong


def _draw(traced: ParameterGraph, picture: Path, level: str) -> None:
    try:
        traced.draw(picture, level)  # type: ignore[arg-type]
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {picture}: {error.strerror or error}")


def _write(path: Path, text: str) -> None:
    from gmn_opt.weights.atomic import write_atomically  # which imports torch

    try:
        write_atomically(path, lambda made: made.write_text(text, encoding="utf-8"))
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror or error}")
