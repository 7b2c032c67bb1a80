"""The Small Transformer Zoo (Tran et al. 2025, arXiv 2410.04209), in the format it is published in.

A folder has ``metadata/NAME.csv`` with a row per checkpoint (the settings of its run,
``ckpt_epoch``, ``ckpt_file`` and an accuracy) and the state dicts in ``NAME/*.pt``. Those of images
have a convolution of patches in front; those of texts share a frozen embedding, which is left out
of their state dicts, and so they are networks on sequences of embeddings here. Nothing that could
run code is ever unpickled.
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.predict.dataset import NetworkDataset
from gmn_opt.predict.networks import Network, NetworkError
from gmn_opt.predict.public import plain_value

_PLACES = "embedding.pos_embedding"
_PATCHES = "embedding.conv1.weight"
_LENGTH = 16


class _Patches(nn.Module):
    """Patches of an image as a sequence, and fixed codes of their places."""

    pos_embedding: Tensor

    def __init__(self, channels: int, width: int, patch: int, count: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, patch, patch)
        self.register_buffer("pos_embedding", torch.zeros(count, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` to ``[B, count, width]``."""
        out: Tensor = self.conv1(x).flatten(2).mT + self.pos_embedding
        return out


class _Attention(nn.Module):
    """Attention without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values, self.out_projection = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, n, width]`` to the same."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        heard = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_projection(heard.transpose(1, 2).flatten(2))
        return out


class _Block(nn.Module):
    """Attention and an MLP behind norms that have no scales; this zoo has no skip connections."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, n, width]`` to the same."""
        x = self.attention(F.layer_norm(x, x.shape[-1:]))
        out: Tensor = self.fc2(F.relu(self.fc1(F.layer_norm(x, x.shape[-1:]))))
        return out


class _Classifier(nn.Module):
    """Two layers on the mean over a sequence."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, n, width]`` to logits ``[B, classes]``."""
        out: Tensor = self.fc2(F.relu(self.fc1(x.mean(1))))
        return out


class SmallTransformer(nn.Module):
    """The architecture of the zoo, by the shapes of a state dict and the number of heads.

    Raises KeyError for a state dict without the zoo's names.
    """

    def __init__(self, state: Mapping[str, Tensor], heads: int) -> None:
        super().__init__()
        width, hidden = state["encoder.0.fc2.weight"].shape
        blocks = {n.split(".")[1] for n in state if n.startswith("encoder.")}
        self.width = width
        self.embedding: nn.Module = nn.Identity()
        if _PATCHES in state:
            _, channels, patch, _ = state[_PATCHES].shape
            self.embedding = _Patches(channels, width, patch, state[_PLACES].shape[-2])
        self.encoder = nn.ModuleList(_Block(width, heads, hidden) for _ in blocks)
        self.classifier = _Classifier(width, len(state["classifier.fc2.bias"]))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, channels, H, W]``, or embedded words ``[B, n, width]``, to logits."""
        x = self.embedding(x)
        for block in self.encoder:
            x = block(x)
        out: Tensor = self.classifier(F.layer_norm(x, x.shape[-1:]))
        return out

    def example(self) -> Tensor:
        """One input."""
        if isinstance(self.embedding, _Patches):
            conv = self.embedding.conv1
            side = round(len(self.embedding.pos_embedding) ** 0.5) * conv.kernel_size[0]
            return torch.zeros(1, conv.in_channels, side, side)
        return torch.zeros(1, _LENGTH, self.width)


def read_transformer_zoo(
    folder: Path | str, name: str = "mnist", epoch: int | None = 75
) -> NetworkDataset:
    """The networks of one data set of the Small Transformer Zoo, with its metadata as the table.

    Args:
        folder: With ``metadata`` and a folder of checkpoints.
        name: The data set: ``"mnist"``, ``"ag_news"``.
        epoch: Which checkpoints; None for all, the best of every run among them.

    Raises:
        NetworkError: A file is missing or damaged, holds more than tensors, or another
            architecture; no row has this epoch.
    """
    folder = Path(folder)
    rows = [r for r in _rows(folder, name) if epoch is None or r.get("ckpt_epoch") == epoch]
    if not rows:
        raise NetworkError(f"{folder} has no checkpoint of epoch {epoch} of {name!r}.")
    graphs: dict[Any, ParameterGraph] = {}
    networks = []
    for row in rows:
        path = folder / name / Path(str(row["ckpt_file"])).name
        state, heads = _state(path), int(row["n_attention_heads"])
        key = (heads, tuple((n, tuple(t.shape)) for n, t in sorted(state.items())))
        if key not in graphs:
            graphs[key] = _graph(state, heads, path)
        networks.append(Network(graphs[key], state))
    return NetworkDataset(networks, rows)


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / "metadata" / f"{name}.csv"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("metadata/*.csv"))
        raise NetworkError(f"{folder} has no metadata/{name}.csv; there are {known}.")
    try:
        text = path.read_text("utf-8")
        read = csv.DictReader(text.splitlines())
        rows = [{k: plain_value(v) for k, v in row.items()} for row in read]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NetworkError(f"{path} is cut off or damaged ({error}). Copy it again.") from error
    needed = ("ckpt_file", "ckpt_epoch", "n_attention_heads")
    for number, row in enumerate(rows):
        missing = [n for n in needed if row.get(n) in (None, "")]
        if missing or not isinstance(row["n_attention_heads"], float):
            raise NetworkError(
                f"{path}, row {number + 1}: expected {', '.join(needed)}, received "
                f"{ {n: row.get(n) for n in needed} }. Copy it again."
            )
    return rows


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise NetworkError(f"{path}, which the metadata name, is missing.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise NetworkError(
            f"{path} is damaged, or holds more than tensors, and was not read ({error})."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise NetworkError(f"{path} is no state dict of a network.")
    return {n: t.detach() for n, t in state.items()}


def _graph(state: Mapping[str, Tensor], heads: int, path: Path) -> ParameterGraph:
    try:
        model = SmallTransformer(state, heads)
        model.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise NetworkError(
            f"{path} is no transformer of this zoo with {heads} heads ({error})."
        ) from error
    return trace(model, model.example(), progress=False)
