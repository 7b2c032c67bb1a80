"""`gmn-opt generate`: new networks from shipped generators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gmn_opt.cli.errors import fail
from gmn_opt.cli.frame import examples

generate_app = typer.Typer(help="Generate networks.", pretty_exceptions_show_locals=False)


@generate_app.callback()
def generate() -> None:
    """Generate networks."""


@generate_app.command(epilog=examples("gmn-opt generate digits --class 7 -n 4 -o sevens"))
def digits(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    label: Annotated[
        int | None, typer.Option("--class", help="Which digit; by default all in turn.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="How many.")] = 16,
    size: Annotated[int, typer.Option(help="Pixels along each side, at least 28.")] = 56,
    temperature: Annotated[
        float | None, typer.Option(help="Of the noise: higher is more varied, 0.8 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="A generator in a file, instead of the one that ships.")
    ] = None,
) -> None:
    """Generate networks that are handwritten digits.

    Writes sheet.png, and per digit one PNG, white on black, and one safetensors file: a small
    network that was generated, not fitted to an image. `gmn-opt inr render` draws it at any size.
    """
    import torch

    from gmn_opt.generate.digits import STEPS, TEMPERATURE, load_digits, write_digits
    from gmn_opt.weights import WeightsError

    if not 1 <= count <= 10_000:
        fail(f"cannot generate {count} digits; -n takes 1 to 10000")
    if out.exists() and not out.is_dir():
        fail(f"cannot write to {out}: it is no folder")
    try:
        generator = load_digits(weights)
        classes = generator.conditions.classes or (0,)
        chosen = [classes[i % len(classes)] for i in range(count)] if label is None else [label]
        labels = torch.tensor(chosen).expand(count)
        params = generator.sample(
            count,
            labels if generator.conditions.size else None,
            steps=STEPS,
            temperature=TEMPERATURE if temperature is None else temperature,
            seed=seed,
        )
        written = write_digits(generator, params, labels, out, size)
    except (WeightsError, ValueError, OSError) as error:
        fail(str(error))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{count} networks and their pictures in {out}, all of them in {written[0]}")


__all__ = ["generate_app"]
