"""Linear mode connectivity: two seeds of a network before and after aligning, on Fashion-MNIST.

``python -m experiments.align``: pairs of an MLP, a CNN and a ResNet with batch norm, each network
from another seed and another order of the data. Along the straight line between both, train and
test loss as they are, after :func:`gmn_opt.align` by weights and by activations, and with
statistics renewed (``renormalize`` where there are running statistics, ``repair`` where not).
The *barrier* is the largest rise above the line between the losses of both ends. Writes a record
per kind of network (``mlp.json``) to --out, and ``paths.png`` of all that are there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.frame import command_line, environment, refusing
from experiments.spread import plus_minus
from gmn_opt.alignment import align, barrier, losses_along_path, renormalize, repair
from gmn_opt.data import load_bundled, normalize
from gmn_opt.figures import legend_below, log_numbers, picture
from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.weights.atomic import write_atomically

State = dict[str, Tensor]
CURVES = ("as they are", "aligned by weights", "aligned by activations", "aligned and renewed")
MEASURES = ("train_loss", "test_loss", "test_accuracy")


class Residual(nn.Module):
    """Two convolutions with batch norm around a shortcut."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
        self.second = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(a, b, 1, stride, bias=False) if a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps ``[N, a, H, W]`` to ``[N, b, H / stride, W / stride]``."""
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(self.skip(x) + y)


def mlp(width: int) -> nn.Module:
    """Three hidden layers, as in the paper's MLP."""
    sizes = [784, width, width, width]
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def cnn(width: int) -> nn.Module:
    """Three convolutions with a mean over the places at the end."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, 2, 2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2 * width, 10),
    )  # fmt: skip


def resnet(width: int) -> nn.Module:
    """A stem and three residual blocks."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Residual(width, width, 1), Residual(width, 2 * width, 2), Residual(2 * width, 2 * width, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


KINDS: dict[str, Callable[[int], nn.Module]] = {"mlp": mlp, "cnn": cnn, "resnet": resnet}


@dataclass(frozen=True)
class Preset:
    """How much is done; epochs and widths by kind of network."""

    pairs: int
    epochs: dict[str, int]
    train: int
    test: int
    widths: dict[str, int]
    points: int = 11
    batch: int = 128
    rate: float = 1e-3


PRESETS = {
    "smoke": Preset(
        1, {"mlp": 1, "cnn": 1, "resnet": 1}, 256, 128, {"mlp": 16, "cnn": 4, "resnet": 4}, points=3
    ),
    "cpu": Preset(
        5, {"mlp": 10, "cnn": 10, "resnet": 5}, 10_000, 1_000,
        {"mlp": 512, "cnn": 32, "resnet": 32},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Images ``[N, 1, 28, 28]`` and labels of both splits."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def judged(self) -> tuple[Tensor, Tensor]:
        """The training images on which the path is measured: as many as there are test images."""
        n = len(self.test[1])
        return self.train[0][:n], self.train[1][:n]


def load(preset: Preset) -> Data:
    """The first images of Fashion-MNIST."""
    found = load_bundled("fashion_mnist")
    n, m = preset.train, preset.test
    return Data(
        (normalize(found.train_images[:n]), found.train_labels[:n]),
        (normalize(found.test_images[:m]), found.test_labels[:m]),
    )


def trained(kind: str, preset: Preset, data: Data, seed: int) -> nn.Module:
    """One network, from one seed: AdamW with a cosine schedule."""
    torch.manual_seed(seed)
    model = KINDS[kind](preset.widths[kind])
    images, labels = data.train
    per_epoch = max(1, len(labels) // preset.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=preset.rate, weight_decay=1e-3)
    epochs = preset.epochs[kind]
    total = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3 * preset.rate, total_steps=total)
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for batch in order[: per_epoch * preset.batch].split(preset.batch):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def measure(
    model: nn.Module, first: State, second: State, data: Data, points: int, renew: Any = None
) -> dict[str, list[float]]:
    """All measures along the line from one network to another."""
    rows: list[tuple[float, ...]] = []

    def judge(network: nn.Module) -> float:
        row = []
        for images, labels in (data.judged(), data.test):
            out = torch.cat([network(x) for x in images.split(500)])
            row.append(float(F.cross_entropy(out, labels)))
        rows.append((*row, float((out.argmax(1) == labels).double().mean())))
        return row[0]

    losses_along_path(model, first, second, judge, points, renew)
    return {
        name: list(found) for name, found in zip(MEASURES, zip(*rows, strict=True), strict=True)
    }


def pair(kind: str, preset: Preset, data: Data, seed: int) -> dict[str, Any]:
    """One pair of networks: curves, barriers, and how long aligning took."""
    started = time.perf_counter()
    model, other = (trained(kind, preset, data, s) for s in (2 * seed, 2 * seed + 1))
    seconds = {"training": time.perf_counter() - started}
    images = data.train[0]
    graph = trace(model, images[:2])
    a, b = (dict(m.state_dict()) for m in (model, other))
    batches = list(images[:2000].split(500))
    aligned: dict[str, State] = {}
    for method in ("weights", "activations"):
        started = time.perf_counter()
        symmetry = align(graph, a, b, method, batches, model=model)
        seconds[f"aligning by {method}"] = time.perf_counter() - started
        aligned[method] = graph.permute(b, symmetry)
    renew = renewal(model, graph, a, aligned["weights"], batches)
    curves = {}
    for name, end, change in (
        (CURVES[0], b, None),
        (CURVES[1], aligned["weights"], None),
        (CURVES[2], aligned["activations"], None),
        (CURVES[3], aligned["weights"], renew),
    ):
        curves[name] = measure(model, a, end, data, preset.points, change)
    barriers = {
        name: {m: barrier(curve[m]) for m in MEASURES[:2]} for name, curve in curves.items()
    }
    return {"seeds": [2 * seed, 2 * seed + 1], "curves": curves, "barriers": barriers,
            "seconds": seconds}  # fmt: skip


def renewal(
    model: nn.Module, graph: ParameterGraph, a: State, b: State, batches: list[Tensor]
) -> Callable[[State, float], State]:
    """What sets the statistics of an average right."""
    if any(n.endswith("running_mean") for n in a):
        return lambda state, t: renormalize(model, state, batches)
    return lambda state, t: repair(model, graph, state, [a, b], batches, [1 - t, t])


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Test and train loss along the path: mean over the pairs, and each pair faintly."""
    with picture(path, 3.2 * len(results), 6) as figure:
        axes = figure.subplots(2, len(results), squeeze=False, sharex=True)
        for column, (kind, pairs) in enumerate(results.items()):
            for row, what in enumerate(MEASURES[:2]):
                axis = axes[row][column]
                for number, name in enumerate(CURVES):
                    losses = torch.tensor([p["curves"][name][what] for p in pairs])
                    places = torch.linspace(0, 1, losses.shape[1])
                    axis.plot(places, losses.T, color=f"C{number}", alpha=0.25, linewidth=0.7)
                    axis.plot(places, losses.mean(0), color=f"C{number}", label=name)
                log_numbers(axis)
                axis.set_title(kind)
                if column == 0:
                    axis.set_ylabel(what.replace("_", " "))
        axes[-1][len(results) // 2].set_xlabel("from the first network (0) to the second (1)")
        legend_below(figure, 4)


def table(results: dict[str, list[dict[str, Any]]]) -> Table:
    """Barriers and the accuracy in the middle, mean and standard deviation over the pairs."""
    found = Table(title="Fashion-MNIST, barriers of the loss")
    for heading in ("network", "second network", "train", "test", "accuracy in the middle"):
        found.add_column(heading, justify="right")
    for kind, pairs in results.items():
        for name in CURVES:
            cells = []
            for what in MEASURES[:2]:
                values = torch.tensor([p["barriers"][name][what] for p in pairs]).double()
                cells.append(plus_minus(float(values.mean()), float(values.std(correction=0))))
            curves = [p["curves"][name]["test_accuracy"] for p in pairs]
            middle = torch.tensor([c[len(c) // 2] for c in curves]).mean()
            found.add_row(kind, name, *cells, f"{100 * middle:.1f} %")
    return found


def main(
    preset: Annotated[str, typer.Option(help="smoke or cpu")] = "cpu",
    out: Annotated[Path, typer.Option()] = Path("runs/align"),
    kinds: Annotated[
        str, typer.Option(help="Of mlp, cnn, resnet, with commas.")
    ] = "mlp,cnn,resnet",
    seed: Annotated[int, typer.Option(help="Of the first pair.")] = 0,
    threads: Annotated[int, typer.Option()] = 1,
) -> None:
    """Measure what aligning two trained networks is worth."""
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(threads)
    with refusing(console):
        if preset not in PRESETS or not set(kinds.split(",")) <= KINDS.keys():
            raise ValueError(
                f"Presets are {', '.join(PRESETS)}, and networks {', '.join(KINDS)}; "
                f"received {preset!r} and {kinds!r}."
            )
        chosen = PRESETS[preset]
        data, machine = load(chosen), environment()
        for kind in kinds.split(","):
            pairs: list[dict[str, Any]] = []
            for number in range(chosen.pairs):
                pairs.append(pair(kind, chosen, data, seed + number))
                console.print(f"{kind} {number}: {pairs[-1]['barriers']}")
                write(kind, pairs, chosen, machine, out)
    results = recorded(out)
    plot(results, out / "paths.png")
    console.print(table(results))


def write(
    kind: str, pairs: list[dict[str, Any]], preset: Preset, machine: dict[str, Any], out: Path
) -> None:
    """The record so far."""
    record = {
        "command": command_line(),
        "data": "fashion_mnist",
        "preset": dict(vars(preset)),
        "pairs": _rounded(pairs),
        "environment": machine,
    }
    text = json.dumps(record, indent=1) + "\n"
    write_atomically(out / f"{kind}.json", lambda path: path.write_text(text, encoding="utf-8"))


def recorded(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The pairs of every kind that has a record."""
    files = {kind: out / f"{kind}.json" for kind in KINDS}
    return {
        kind: json.loads(path.read_text("utf-8"))["pairs"]
        for kind, path in files.items()
        if path.exists()
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    typer.run(main)
