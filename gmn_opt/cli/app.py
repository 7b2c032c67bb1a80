"""The `gmn-opt` command; what a subcommand needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

import gmn_opt
from gmn_opt.cli.align import align
from gmn_opt.cli.bench.command import bench
from gmn_opt.cli.demo.command import demo
from gmn_opt.cli.environment import env
from gmn_opt.cli.frame import Group, examples
from gmn_opt.cli.generate import generate_app
from gmn_opt.cli.graph import graph
from gmn_opt.cli.inr import inr_app
from gmn_opt.cli.meta_train.command import meta_train
from gmn_opt.cli.predict import predict
from gmn_opt.cli.weights import weights_app

app = typer.Typer(
    name="gmn-opt",
    cls=Group,
    help="Graph metanetworks for any PyTorch model.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_CNN = "gmn_opt.cli.demo.models:build_cnn"
app.command(epilog=examples("gmn-opt demo --quick", "gmn-opt demo --seeds 1 --out demo"))(demo)
app.command(
    epilog=examples(
        "gmn-opt bench gmn_opt.cli.bench.example:fashion_mlp --steps 100",
        "gmn-opt bench gmn_opt.cli.bench.example:fashion_mlp --optimizer gmn --steps 5 --json",
    )
)(bench)
app.command(epilog=examples(f"gmn-opt graph {_CNN} --input 1x1x28x28 --draw cnn.png"))(graph)
app.command(
    epilog=examples(
        "gmn-opt generate digits --class 3 -n 2 -o digits",
        "gmn-opt align digits/digit-3-000.safetensors digits/digit-3-001.safetensors"
        " --model gmn_opt.cli.example:digit --input 4x2 -o aligned.safetensors",
    )
)(align)
app.command(epilog=examples(f"gmn-opt predict {_CNN} --input 1x1x28x28"))(predict)
app.command(
    "meta-train",
    epilog=examples(
        "gmn-opt meta-train gmn_opt.cli.meta_train.example:digits --preset smoke --out runs/mine",
        "gmn-opt bench gmn_opt.cli.bench.example:fashion_mlp --optimizer gmn --steps 5"
        " --weights runs/mine/weights.safetensors",
    ),
)(meta_train)
app.command(epilog=examples("gmn-opt env", "gmn-opt env --json"))(env)
app.add_typer(generate_app, name="generate", no_args_is_help=True)
app.add_typer(inr_app, name="inr", no_args_is_help=True)
app.add_typer(weights_app, name="weights", no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(gmn_opt.__version__)
        raise typer.Exit


@app.callback(epilog=examples("gmn-opt weights list", "gmn-opt --install-completion"))
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """Graph metanetworks for any PyTorch model."""
