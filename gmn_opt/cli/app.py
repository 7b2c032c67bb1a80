"""The `gmn-opt` command; what a subcommand needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

import gmn_opt
from gmn_opt.cli.align import align
from gmn_opt.cli.bench.command import bench
from gmn_opt.cli.demo.command import demo
from gmn_opt.cli.environment import env
from gmn_opt.cli.generate import generate_app
from gmn_opt.cli.graph import graph
from gmn_opt.cli.inr import inr_app
from gmn_opt.cli.predict import predict
from gmn_opt.cli.weights import weights_app

app = typer.Typer(
    name="gmn-opt",
    help="Graph metanetworks for any PyTorch model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command()(demo)
app.command()(bench)
app.command()(graph)
app.command()(align)
app.command()(predict)
app.command()(env)
app.add_typer(generate_app, name="generate", no_args_is_help=True)
app.add_typer(inr_app, name="inr", no_args_is_help=True)
app.add_typer(weights_app, name="weights", no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(gmn_opt.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """Graph metanetworks for any PyTorch model."""
