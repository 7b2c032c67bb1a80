"""Populations of networks that others have published, in the formats they are published in.

- *Small CNN Zoo* (Unterthiner et al. 2020, arXiv 2002.11448): ``weights.npy`` with one flattened
  network per row, ``metrics.csv`` or ``metrics.csv.gz`` with a row for each, and ``layout.csv``,
  which says where every variable lies in a row, channels last, as Keras has them.
- *Model Zoos* (Schürholt et al. 2022, arXiv 2209.14764): a folder per network with state dicts in
  ``checkpoint_N/checkpoints`` and a line per epoch in ``result.json``.

Nothing that could run code is ever unpickled.
"""

from __future__ import annotations

import csv
import gzip
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, TraceError, trace
from gmn_opt.predict.dataset import NetworkDataset
from gmn_opt.predict.networks import Network, NetworkError

#: Names of a :class:`SmallCNN`'s layers in their order.
_LAYERS = ("features.0", "features.2", "features.4", "head")
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
#: Every zoo's images.
_SIZE = 28


class SmallCNN(nn.Module):
    """The architecture of the Small CNN Zoo: three convolutions, the mean over places, a layer."""

    def __init__(self, activation: str = "relu", channels: int = 1) -> None:
        super().__init__()
        act = _ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        for number in range(3):
            layers += [nn.Conv2d(channels if number == 0 else 16, 16, 3, 2), act()]
        self.features, self.head = nn.Sequential(*layers), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` to logits ``[B, 10]``."""
        out: Tensor = self.head(self.features(x).flatten(2).mean(2))
        return out


@dataclass(frozen=True)
class _Variable:
    """Where a tensor lies in a row of weights."""

    name: str
    start: int
    end: int
    shape: tuple[int, ...]


def read_small_cnn_zoo(folder: Path | str, *, last: bool = True) -> NetworkDataset:
    """The networks of a folder of the Small CNN Zoo, with its metrics as the table.

    Args:
        folder: With ``weights.npy``, ``layout.csv``, and ``metrics.csv`` or ``metrics.csv.gz``.
        last: Only the last step of every run (column ``modeldir``).

    Raises:
        NetworkError: A file is missing or damaged, or does not hold such networks.
    """
    folder = Path(folder)
    path = folder / "weights.npy"
    if not path.is_file():
        raise NetworkError(f"{folder} is no Small CNN Zoo: there is no weights.npy.")
    try:
        weights = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise NetworkError(f"{path} is cut off or damaged ({error}). Copy it again.") from error
    rows, layout = _metrics(folder), _layout(folder)
    total = max(v.end for v in layout.values())
    if weights.shape != (len(rows), total):
        raise NetworkError(
            f"{path} has shape {list(weights.shape)}; {len(rows)} rows of metrics and networks of "
            f"{total} parameters need [{len(rows)}, {total}]."
        )
    graphs: dict[str, ParameterGraph] = {}
    networks, table = [], []
    for place in _last_rows(rows) if last else range(len(rows)):
        activation = str(rows[place].get("config.activation", "relu"))
        if activation not in graphs:
            graphs[activation] = _graph(activation, layout, place)
        vector = torch.from_numpy(np.array(weights[place], dtype=np.float32))
        found = {n: _in_torch(vector[v.start : v.end].view(v.shape)) for n, v in layout.items()}
        networks.append(Network(graphs[activation], found))
        table.append(rows[place])
    return NetworkDataset(networks, table)


def _graph(activation: str, layout: dict[str, _Variable], place: int) -> ParameterGraph:
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise NetworkError(f"Row {place} has the activation {activation!r}; known are {known}.")
    channels = layout["features.0.weight"].shape[2]
    return trace(
        SmallCNN(activation, channels), torch.zeros(1, channels, _SIZE, _SIZE), progress=False
    )


def _in_torch(t: Tensor) -> Tensor:
    """Keras's order of axes to torch's."""
    order = (3, 2, 0, 1) if t.dim() == 4 else tuple(reversed(range(t.dim())))
    return t.permute(order).contiguous()


def _last_rows(rows: list[dict[str, Any]]) -> list[int]:
    """Of every run, the row of its last step."""
    best: dict[Any, int] = {}
    for place, row in enumerate(rows):
        run = row.get("modeldir", place)
        if run not in best or row.get("step", 0) >= rows[best[run]].get("step", 0):
            best[run] = place
    return sorted(best.values())


def _metrics(folder: Path) -> list[dict[str, Any]]:
    for name in ("metrics.csv", "metrics.csv.gz"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = path.read_bytes()
            text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
            rows = csv.DictReader(text.splitlines())
            return [{k: plain_value(v) for k, v in row.items()} for row in rows]
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise NetworkError(f"{path} is cut off or damaged ({error}). Copy it again.") from error
    raise NetworkError(f"{folder} is no Small CNN Zoo: there is no metrics.csv or metrics.csv.gz.")


def _layout(folder: Path) -> dict[str, _Variable]:
    """Variables by the names of a :class:`SmallCNN`'s tensors."""
    path = folder / "layout.csv"
    if not path.is_file():
        raise NetworkError(f"{folder} is no Small CNN Zoo: there is no layout.csv.")
    try:
        with path.open(encoding="utf-8") as file:
            found = [
                _Variable(
                    row["varname"], int(row["start_idx"]), int(row["end_idx"]),
                    tuple(int(n) for n in row["shape"].strip("()[] ,").split(",")),
                )
                for row in csv.DictReader(file)
            ]  # fmt: skip
    except (KeyError, ValueError, csv.Error) as error:
        raise NetworkError(f"{path} is damaged ({error!r}). Copy it again.") from error
    made: dict[str, _Variable] = {}
    for kind, name in (("kernel", "weight"), ("bias", "bias")):
        some = sorted((v for v in found if kind in v.name), key=lambda v: v.start)
        sizes = [len(v.shape) for v in some]
        if sizes != ([4, 4, 4, 2] if kind == "kernel" else [1, 1, 1, 1]):
            raise NetworkError(
                f"{path} has {kind}s of shapes {[v.shape for v in some]}; expected those of three "
                "convolutions and a dense layer."
            )
        made |= {f"{layer}.{name}": v for layer, v in zip(_LAYERS, some, strict=True)}
    return made


def plain_value(text: str | None) -> Any:
    """A number where it is one."""
    try:
        return float(text) if text else text
    except ValueError:
        return text


def read_model_zoo(
    folder: Path | str, build: nn.Module, example_inputs: tuple[Any, ...], epoch: int | None = None
) -> NetworkDataset:
    """The networks of a folder of Schürholt et al.'s zoos, with their results as the table.

    Args:
        folder: With a folder per network.
        build: A module of the zoo's architecture, whose names the state dicts have.
        example_inputs: What it is called with when it is traced.
        epoch: Which checkpoint; by default the last one of every network.

    Raises:
        NetworkError: No networks there, a file is missing or damaged, other names or shapes than
            those of ``build``, a checkpoint that would run code.
    """
    folder = Path(folder)
    try:
        graph = trace(build, *example_inputs, progress=False)
    except TraceError as error:
        raise NetworkError(f"{type(build).__name__} cannot be traced: {error}") from error
    networks, table = [], []
    for path in _folders(folder):
        number, file = _checkpoint(path, epoch)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise NetworkError(
                f"{file} is damaged, or holds more than tensors, and was not read ({error})."
            ) from error
        if not isinstance(state, dict) or any(n not in state for n in graph.shapes):
            names = sorted(state)[:6] if isinstance(state, dict) else type(state).__name__
            raise NetworkError(f"{file} has {names}, expected {sorted(graph.shapes)[:6]}.")
        networks.append(Network(graph, state))
        table.append({"folder": path.name, "epoch": number, **_results(path, number)})
    return NetworkDataset(networks, table)


def _folders(folder: Path) -> Iterator[Path]:
    found = sorted(p.parent for p in folder.glob("*/result.json"))
    if not found:
        raise NetworkError(f"{folder} is no model zoo: no folder in it has a result.json.")
    yield from found


def _checkpoint(path: Path, epoch: int | None) -> tuple[int, Path]:
    known = {
        int(p.parent.name.removeprefix("checkpoint_")): p
        for p in path.glob("checkpoint_*/checkpoints")
        if p.parent.name.removeprefix("checkpoint_").isdecimal()
    }
    number = max(known, default=-1) if epoch is None else epoch
    if number not in known:
        raise NetworkError(f"{path} has checkpoints {sorted(known)}, none of epoch {epoch}.")
    return number, known[number]


def _results(path: Path, epoch: int) -> dict[str, Any]:
    """Plain values of the line of this epoch, its config among them."""
    try:
        lines = [
            json.loads(line)
            for line in (path / "result.json").read_text("utf-8").splitlines()
            if line.strip()
        ]
    except ValueError as error:
        raise NetworkError(f"{path / 'result.json'} is damaged ({error}).") from error
    found = next((x for x in lines if x.get("training_iteration") == epoch), None)
    if found is None:
        raise NetworkError(f"{path / 'result.json'} has no line of epoch {epoch}.")
    flat = {**{f"config.{k}": v for k, v in found.pop("config", {}).items()}, **found}
    return {k: v for k, v in flat.items() if isinstance(v, int | float | str | None)}
