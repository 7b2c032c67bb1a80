"""`gmn-opt predict`: how accurate a classifier will be, from its weights alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gmn_opt.cli.errors import fail
from gmn_opt.cli.models import parse_dtype, parse_input, prepare

if TYPE_CHECKING:
    from torch import nn


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODULE:FACTORY", help="The architecture, such as net:Net.")
    ],
    inputs: Annotated[
        list[str],
        typer.Option("--input", metavar="SHAPE", help="Of an example input, such as 1x1x28x28."),
    ],
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="File with the weights; may be repeated. By default the factory's own."),
    ] = None,
    dtypes: Annotated[
        list[str] | None, typer.Option("--dtype", metavar="KIND", help="As of `gmn-opt graph`.")
    ] = None,
    predictor: Annotated[
        str, typer.Option(help="Name of a shipped predictor, or a .safetensors file of your own.")
    ] = "accuracy",
    coverage: Annotated[float, typer.Option(help="Of the interval.")] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate the test accuracy of a small image classifier from its weights.

    Weights are .safetensors files, or files of torch.save with a state dict. The estimate comes
    with an interval, and with a warning where the network is unlike those that were seen.
    """
    specs = [parse_input(text) for text in inputs]
    kinds = [parse_dtype(text) for text in dtypes or ["float"]]
    if len(kinds) not in (1, len(specs)):
        fail(f"{len(kinds)} times --dtype for {len(specs)} inputs; give one for all, or one each")
    if any(name for name, _ in specs):
        fail("inputs by name are not possible here; give shapes in their order")
    network, args, _ = prepare(model, specs, kinds, meta=False)
    network.eval()
    from gmn_opt.predict import predict_accuracy

    found = {}
    files: list[Path | None] = [*weights] if weights else [None]
    for path in files:
        if path is not None:
            fill(network, path)
        try:
            estimate = predict_accuracy(network, *args, coverage=coverage, weights=predictor)
        except ValueError as error:
            fail(str(error))
        found["its own weights" if path is None else str(path)] = estimate
    if as_json:
        facts = {name: {**vars(e), "unusual": e.unusual} for name, e in found.items()}
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, estimate in found.items():
        style = "yellow" if estimate.unusual else None
        console.print(f"{name}: accuracy {estimate}", style=style, markup=False)


def fill(network: nn.Module, path: Path) -> None:
    """Load a file's weights; ends with a message where they are not this network's."""
    from gmn_opt.cli.align import read_state

    state = read_state(path)
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        fail(f"{path} is not of this architecture: missing {missing[:4]}, unexpected {extra[:4]}")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        fail(f"{path} is not of this architecture: {error}")
