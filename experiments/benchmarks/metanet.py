"""Speed and memory of a metanet: ``python -m experiments.benchmarks.metanet --preset smoke|cpu``.

Three tables, forward alone and forward with backward:

1. 64 SIRENs 2-32-32-1, 4 rounds, at several widths: the blocked execution, eager and compiled,
   against others of the same function (``executions.py``) and our own sparse one.
2. The same over batch size, width and depth of the input networks.
3. One MLP of up to 10 million parameters, with the growth of time fitted.

Runs alternate, so that what else the machine does meets all; times are processor seconds of one
thread. Peak memory is what the allocator had handed out at most, above what was held before. All
executions are first checked to agree. Writes ``result.json`` and ``metanet.png`` to --out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from experiments import frame
from experiments.benchmarks.executions import EdgeList, dense, gather, preprojected
from gmn_opt import GraphMetanet, trace
from gmn_opt.figures import legend_below, picture
from gmn_opt.graph import ParameterGraph
from gmn_opt.inr import SirenConfig

Tensors = dict[str, Tensor]
Call = Callable[[], Tensors]


#: For all that is compiled: kernels are called from C++, not from Python.
_COMPILED: Any = {"cpp_wrapper": True}


@dataclass(frozen=True)
class Preset:
    """What is measured."""

    batch: int
    widths: tuple[tuple[int, int], ...]  # (hidden, edge_hidden)
    compiled: tuple[tuple[int, int], ...]
    rounds: int
    sweeps: dict[str, tuple[int, ...]]
    sizes: tuple[int, ...]  # width of the MLP of table 3


PRESETS = {
    "smoke": Preset(4, ((8, 4),), (), 2, {"batch": (1, 4), "width": (8, 16)}, (16, 32)),
    "cpu": Preset(
        64,
        ((32, 8), (64, 8), (32, 32), (64, 64)),
        ((32, 8), (32, 32)),
        7,
        {"batch": (4, 16, 64, 256), "width": (16, 32, 64, 128), "depth": (1, 2, 4, 8)},
        (32, 100, 316, 1000, 2236),
    ),
}


def siren(width: int = 32, depth: int = 2) -> tuple[ParameterGraph, nn.Module]:
    """SIREN 2-width-...-1 with ``depth`` hidden layers, and its graph."""
    inr = SirenConfig(widths=(width,) * depth).build()
    return trace(inr, torch.zeros(4, 2)), inr


def random_batch(network: nn.Module, batch: int) -> Tensors:
    """``{name: [batch, *shape, 1]}``."""
    return {n: torch.randn(batch, *p.shape, 1) for n, p in network.named_parameters()}


def metanet_of(hidden: int, edge_hidden: int, backend: Any = "blocked") -> GraphMetanet:
    """Four rounds, nothing at zero."""
    torch.manual_seed(0)
    net = GraphMetanet(1, 1, hidden=hidden, edge_hidden=edge_hidden, layers=4, backend=backend)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def forward(call: Call) -> None:
    """Forward alone."""
    with torch.no_grad():
        call()


def forward_backward(call: Call) -> None:
    """Forward, and backward to the metanet's parameters."""
    loss = torch.stack([out.square().mean() for out in call().values()]).sum()
    loss.backward()


MODES = {"forward": forward, "forward+backward": forward_backward}


def peak_bytes(run: Callable[[], None]) -> int:
    """Most bytes of tensors alive at once during ``run``, above those alive before."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run()
    events = prof.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    alive = most = 0
    for _, change in changes:
        alive += change
        most = max(most, alive)
    return most


def measure(calls: dict[str, Call], rounds: int, reference: str) -> dict[str, Any]:
    """Seconds and peak bytes per execution and mode; ratios to ``reference`` of the same round."""
    outputs = {}
    for name, call in calls.items():
        with torch.no_grad():
            outputs[name] = call()
    expected = outputs[reference]
    facts: dict[str, Any] = {}
    for name, out in outputs.items():
        error = max(float((out[n] - t).norm() / t.norm()) for n, t in expected.items())
        if error > 1e-4:
            raise RuntimeError(f"{name} differs from {reference} by {error:.1e}; nothing measured.")
        facts[name] = {"relative_difference": error}
    for mode, run in MODES.items():
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for name, call in calls.items():
            facts[name][mode] = {"peak_bytes": peak_bytes(partial(run, call))}
        for _ in range(rounds):
            for name, call in calls.items():
                started = time.process_time()
                run(call)
                seconds[name].append(time.process_time() - started)
        for name, found in seconds.items():
            ratios = [a / b for a, b in zip(seconds[reference], found, strict=True)]
            facts[name][mode] |= {
                "seconds": [round(s, 5) for s in found],
                "times_faster": {
                    "median": round(median(ratios), 2),
                    "min": round(min(ratios), 2),
                    "max": round(max(ratios), 2),
                },
            }
    return facts


def compare(preset: Preset, hidden: int, edge_hidden: int) -> dict[str, Any]:
    """Table 1 at one width."""
    graph, inr = siren()
    tensors = random_batch(inr, preset.batch)
    net = metanet_of(hidden, edge_hidden)
    sparse = metanet_of(hidden, edge_hidden, "sparse")
    edges = EdgeList.of(graph, preset.batch, net)
    calls: dict[str, Call] = {
        "PyG: gather, concatenate, scatter": lambda: gather(net, edges, tensors),
        "PyG, pre-projected nodes": lambda: preprojected(net, edges, tensors),
        "dense N x N": lambda: dense(net, edges, tensors),
        "ours, sparse": lambda: sparse(graph, tensors),
        "ours, blocked": lambda: net(graph, tensors),
    }
    if (hidden, edge_hidden) in preset.compiled:
        torch.compiler.reset()  # or the compiler gives up after a few widths
        net(graph, tensors)
        fast = torch.compile(
            lambda t: net(graph, t), fullgraph=True, dynamic=False, options=_COMPILED
        )
        plain = torch.compile(lambda t: gather(net, edges, t), dynamic=False, options=_COMPILED)
        calls["PyG, compiled"] = lambda: plain(tensors)
        calls["ours, blocked, compiled"] = lambda: fast(tensors)
    return measure(calls, preset.rounds, next(iter(calls)))


def growth(sizes: list[float], seconds: list[float]) -> float:
    """Exponent p of ``seconds ~ sizes^p``, least squares in logarithms."""
    xs, ys = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    top = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return top / sum((a - x) ** 2 for a in xs)


def sweep(preset: Preset, name: str, values: tuple[int, ...]) -> dict[str, Any]:
    """Table 2: one property of the input networks changes, the others stay."""
    rows, edges, seconds = [], [], []
    for value in values:
        width = value if name == "width" else 32
        graph, inr = siren(width, value if name == "depth" else 2)
        batch = value if name == "batch" else min(preset.batch, 16)
        tensors = random_batch(inr, batch)
        net = metanet_of(32, 8)
        listed = EdgeList.of(graph, batch, net)
        calls: dict[str, Call] = {
            "PyG: gather, concatenate, scatter": partial(gather, net, listed, tensors),
            "ours, blocked": partial(net, graph, tensors),
        }
        facts = measure(calls, preset.rounds, next(iter(calls)))
        count = batch * sum(p.numel() for p in inr.parameters())
        rows.append({name: value, "edges": count, "executions": facts})
        edges.append(float(count))
        seconds.append(min(facts["ours, blocked"]["forward+backward"]["seconds"]))
    return {"rows": rows, "growth": round(growth(edges, seconds), 3)}


def large(preset: Preset) -> dict[str, Any]:
    """Table 3: one MLP w-w-w-10, hidden 32, 8 edge channels."""
    rows: list[dict[str, Any]] = []
    for width in preset.sizes:
        mlp = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 10),
        )  # fmt: skip
        graph = trace(mlp, torch.zeros(2, width), verify=False)
        tensors = {n: t[0] for n, t in random_batch(mlp, 1).items()}
        net = metanet_of(32, 8)
        call = partial(net, graph, tensors)
        row: dict[str, Any] = {"parameters": sum(p.numel() for p in mlp.parameters())}
        for mode, run in MODES.items():
            found = []
            for _ in range(3):
                started = time.process_time()
                run(call)
                found.append(time.process_time() - started)
            row[mode] = {
                "seconds": [round(s, 4) for s in found],
                "peak_bytes": peak_bytes(partial(run, call)),
            }
        rows.append(row)
    big = [r for r in rows if r["parameters"] >= 1e5] or rows
    sizes = [float(r["parameters"]) for r in big]
    fits = {m: round(growth(sizes, [min(r[m]["seconds"]) for r in big]), 3) for m in MODES}
    return {"rows": rows, "growth_from_1e5_parameters": fits}


def show(record: dict[str, Any], console: Console) -> None:
    """Print the first table."""
    for widths, facts in record["comparison"].items():
        table = Table(title=f"{record['batch']} SIRENs 2-32-32-1, 4 rounds, {widths}")
        table.add_column("execution")
        for mode in MODES:
            for column in (f"{mode} [ms]", "times faster", "peak [MB]"):
                table.add_column(column, justify="right")
        for name, found in facts.items():
            cells = []
            for mode in MODES:
                f = found[mode]
                cells += [
                    f"{1e3 * median(f['seconds']):.1f}",
                    f"{f['times_faster']['median']:.1f}",
                    f"{f['peak_bytes'] / 1e6:.1f}",
                ]
            table.add_row(name, *cells)
        console.print(table)
    for name, found in record["sweeps"].items():
        console.print(f"time over {name}: edges^{found['growth']}")
    console.print(f"time over parameters: {record['large']['growth_from_1e5_parameters']}")


def plot(record: dict[str, Any], path: Path) -> None:
    """Times over the number of parameters."""
    with picture(path, 5, 3.8) as figure:
        axis = figure.subplots()
        rows = record["large"]["rows"]
        sizes = [r["parameters"] for r in rows]
        for mode in MODES:
            axis.loglog(sizes, [min(r[mode]["seconds"]) for r in rows], "o-", label=mode)
        last = rows[-1]["forward"]["seconds"]
        axis.loglog(sizes, [min(last) * s / sizes[-1] for s in sizes], "k:", label="linear")
        axis.set_xlabel("parameters of the input network")
        axis.set_ylabel("processor seconds")
        legend_below(figure)


def main(
    preset: Annotated[str, typer.Option(help="smoke or cpu")] = "smoke",
    out: frame.Out = Path("runs/benchmarks/metanet"),
) -> None:
    """Measure the executions of a metanet."""
    if preset not in PRESETS:
        raise typer.BadParameter(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    chosen, console = PRESETS[preset], frame.begin()
    record: dict[str, Any] = {
        "preset": preset,
        "batch": chosen.batch,
        "comparison": {},
    }
    for hidden, edge_hidden in chosen.widths:
        name = f"hidden {hidden}, edge {edge_hidden}"
        console.print(f"comparing at {name} ...")
        record["comparison"][name] = compare(chosen, hidden, edge_hidden)
    record["sweeps"] = {n: sweep(chosen, n, values) for n, values in chosen.sweeps.items()}
    record["large"] = large(chosen)
    frame.write_record(out / "result.json", record)
    plot(record, out / "metanet.png")
    show(record, console)


if __name__ == "__main__":
    typer.run(main)
