"""Tasks in plain words, for tables and pictures."""

from __future__ import annotations

from tasks.autoencoding import ImageAutoencoding
from tasks.base import DataTask
from tasks.classification import ImageClassification, PatchClassification
from tasks.inr_fitting import InrFitting
from tasks.language import SourceCode
from tasks.tabular import Tabular

_KINDS = {
    "mlp": "MLP", "cnn": "CNN", "strided": "strided CNN", "resnet": "ResNet", "vit": "ViT",
    "mixer": "MLP-Mixer", "unet": "U-Net", "conv": "conv autoencoder", "siren": "SIREN",
    "fourier": "Fourier features", "gpt": "GPT", "gru": "GRU",
}  # fmt: skip


def title_of(task: DataTask) -> str:
    """A short plain title; the task's name where there is no other."""
    kind = _KINDS.get(getattr(task, "kind", ""), "")
    if isinstance(task, ImageClassification):
        return f"{kind} {_widths(task.hidden)}, {task.size} px"
    if isinstance(task, PatchClassification):
        return f"{kind} width {task.width}, {task.depth} blocks, patch {task.patch}"
    if isinstance(task, ImageAutoencoding):
        name = "MLP autoencoder" if task.kind == "mlp" else kind
        return f"{name} {_widths(task.hidden)}, {task.size} px"
    if isinstance(task, InrFitting):
        return f"{kind} {_widths(task.hidden)}, a photograph"
    if isinstance(task, SourceCode):
        tied = " tied" if task.tied else ""
        depth = f", {task.depth} blocks" if task.kind == "gpt" else ""
        return f"{kind}{tied} width {task.width}{depth}, source code"
    if isinstance(task, Tabular):
        return f"MLP {_widths(task.hidden)}, {task.data.replace('_', ' ')}"
    return task.name


def _widths(hidden: tuple[int, ...]) -> str:
    return "-".join(map(str, hidden))
