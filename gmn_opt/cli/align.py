"""`gmn-opt align`: bring one trained network's neurons into the order of another's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gmn_opt.cli.errors import fail
from gmn_opt.cli.models import parse_dtype, parse_input, prepare, trace_or_fail

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gmn_opt.graph import ParameterGraph

BATCH = 500
IMAGES = 2000
SUFFIXES = (".png", ".svg", ".pdf")


def align(
    first: Annotated[Path, typer.Argument(metavar="A", help="Weights that stay as they are.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Weights to be permuted.")],
    model: Annotated[
        str,
        typer.Option(metavar="MODULE:FACTORY", help="The architecture of both, such as net:Net."),
    ],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="[NAME=]SHAPE",
            help="Shape of an example input, such as 1x3x32x32. May be repeated.",
        ),
    ],
    dtypes: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype", metavar="KIND", help="As of `gmn-opt graph`; one for all inputs, or each."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write B, aligned, to this file.")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option("--merge", help="Write the mean of A and B to this file.")
    ] = None,
    method: Annotated[str, typer.Option(help="weights or activations")] = "weights",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="fashion_mnist, mnist, or a file with tensors 'inputs' and 'targets'; for "
            "--plot, for --method activations, and to renew running statistics.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the loss along the path to this .png, .svg or .pdf file."),
    ] = None,
    restarts: Annotated[int, typer.Option(help="Starting points.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the restarts.")] = 0,
) -> None:
    """Permute the neurons of network B so that its weights are nearest to A's.

    A and B are .safetensors files, or files of torch.save with a state dict.
    """
    specs = [parse_input(text) for text in inputs]
    kinds = [parse_dtype(text) for text in dtypes or ["float"]]
    if len(kinds) not in (1, len(specs)):
        fail(f"{len(kinds)} times --dtype for {len(specs)} inputs; give one for all, or one each")
    if method not in ("weights", "activations"):
        fail(f"no method {method!r}; there are weights, activations")
    if plot is not None and plot.suffix.lower() not in SUFFIXES:
        fail(f"cannot draw to {plot}: the name must end in {', '.join(SUFFIXES)}")
    if data is None and (plot is not None or method == "activations"):
        fail("--plot and --method activations need --data")
    for path in (out, merged, plot):
        if path is not None and not path.absolute().parent.is_dir():
            fail(f"cannot write {path}: {path.parent} is not a folder")
    states = [read_state(path) for path in (first, second)]
    network, args, kwargs = prepare(model, specs, kinds, meta=False)
    graph = trace_or_fail(network.eval(), args, kwargs, True, lambda _: None)
    examples = None if data is None else read_data(data, specs[0][1])
    run(
        network, graph, states, examples, Console(highlight=False),
        method=method, out=out, merged=merged, plot=plot, restarts=restarts, seed=seed,
    )  # fmt: skip


def run(
    network: nn.Module,
    graph: ParameterGraph,
    states: list[dict[str, Tensor]],
    examples: tuple[Tensor, Tensor] | None,
    console: Console,
    *,
    method: str,
    out: Path | None,
    merged: Path | None,
    plot: Path | None,
    restarts: int,
    seed: int,
) -> None:
    """Align, tell the distances, and write what was asked for."""
    from gmn_opt.alignment import align as aligned_by
    from gmn_opt.alignment import average, distance, renormalize

    batches = None if examples is None else list(examples[0].split(BATCH))
    started = time.perf_counter()
    try:
        symmetry = aligned_by(
            graph, states[0], states[1], method, batches,  # type: ignore[arg-type]
            model=network, restarts=restarts, seed=seed,
        )  # fmt: skip
        other = graph.permute(states[1], symmetry)
        network.load_state_dict(states[0])
    except (ValueError, ImportError, RuntimeError) as error:
        fail(str(error))
    seconds = time.perf_counter() - started
    before, after = (distance(graph, states[0], x) for x in (states[1], other))
    console.print(f"{len(graph.spaces)} spaces aligned in {seconds:.1f} s")
    console.print(f"distance of the weights {before:.4g}, aligned {after:.4g}")
    if out is not None:
        write_state(out, other)
        console.print(f"B, aligned: {out}")
    if merged is not None:
        mean = average([states[0], other])
        if batches is not None:
            mean = renormalize(network, mean, batches)
        elif any(name.endswith("running_mean") for name in mean):
            console.print("running statistics are averaged; --data would renew them")
        write_state(merged, mean)
        console.print(f"mean of both: {merged}")
    if plot is not None and examples is not None:
        draw(network, graph, states, other, examples, plot, console)


def draw(
    network: nn.Module,
    graph: ParameterGraph,
    states: list[dict[str, Tensor]],
    other: Mapping[str, Tensor],
    examples: tuple[Tensor, Tensor],
    path: Path,
    console: Console,
) -> None:
    """Losses along the path: naive, aligned, and aligned with statistics set right."""
    from gmn_opt.alignment import barrier, losses_along_path, plot_paths, renormalize, repair

    batches = list(examples[0].split(BATCH))
    loss = loss_on(examples)

    def renew(state: dict[str, Tensor], t: float) -> dict[str, Tensor]:
        if any(name.endswith("running_mean") for name in state):
            return renormalize(network, state, batches)
        return repair(network, graph, state, [states[0], other], batches, [1 - t, t])

    try:
        curves = {
            "as they are": losses_along_path(network, states[0], states[1], loss),
            "aligned": losses_along_path(network, states[0], other, loss),
            "aligned and renormalized": losses_along_path(
                network, states[0], other, loss, renew=renew
            ),
        }
        plot_paths(curves, path)
    except (ValueError, RuntimeError, OSError) as error:
        fail(f"the loss along the path could not be drawn: {error}")
    for name, losses in curves.items():
        console.print(f"barrier {name}: {barrier(losses):.4g}")
    console.print(f"picture: {path}")


def loss_on(examples: tuple[Tensor, Tensor]) -> Callable[[nn.Module], float]:
    """Cross entropy where targets are integers, mean squared error otherwise."""
    import torch
    from torch.nn import functional as F

    inputs, targets = examples

    def loss(network: nn.Module) -> float:
        outputs = torch.cat([network(x) for x in inputs.split(BATCH)])
        if targets.is_floating_point():
            return float(F.mse_loss(outputs, targets))
        return float(F.cross_entropy(outputs.flatten(0, -2), targets.flatten()))

    return loss


# ---------------------------------------------------------------------- files


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        fail(f"no file {path}")
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        fail(f"cannot read {path}: {type(error).__name__}: {error}")
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(x, torch.Tensor) for x in found.values()):
        fail(f"{path} holds no state dict: names with tensors, as model.state_dict() gives")
    return dict(found)


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """A state dict, as safetensors or by torch.save, by the name's ending."""
    import torch
    from safetensors.torch import save_file

    tensors = {n: x.detach().cpu().contiguous().clone() for n, x in state.items()}
    try:
        if path.suffix == ".safetensors":
            save_file(tensors, path)
        else:
            torch.save(tensors, path)
    except OSError as error:
        fail(f"cannot write {path}: {error}")


def read_data(where: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inputs and targets: test images of a bundled set in an input's shape, or a file's."""
    from gmn_opt.data import bundled_names, load_bundled

    if where in bundled_names():
        found = load_bundled(where)
        images = found.normalized()[1][:IMAGES]
        try:
            return images.reshape(len(images), *shape[1:]), found.test_labels[:IMAGES]
        except RuntimeError:
            fail(f"images of {where} are 1x28x28, which does not fit --input {shape}")
    if not Path(where).is_file():
        fail(f"no data {where!r}; there are {', '.join(bundled_names())}, or a file")
    tensors = read_state(Path(where))
    if not {"inputs", "targets"} <= tensors.keys():
        fail(f"{where} has {', '.join(tensors) or 'nothing'}; it needs 'inputs' and 'targets'")
    return tensors["inputs"], tensors["targets"]
