"""Training of weight editors through the rendered image, and the editors they are compared to."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from gmn_opt.graph import ParameterGraph
from gmn_opt.inr import EditorConfig, InrConfig, InrSet, Params, WeightEditor, render
from gmn_opt.inr.edits import edited
from gmn_opt.metanet.baselines.common import flatten, mlp
from gmn_opt.metanet.baselines.np_nfn import NPStack


class NPEditor(WeightEditor):
    """The same editor with NP-NFN layers in place of the graph metanet."""

    def make_metanet(self, features: int) -> None:
        """NP layers as wide as the graph metanet's nodes, one less of them."""
        shapes = self.graph_of(self.inr).shapes
        self.metanet = NPStack(shapes, features, 1, self.config.hidden, self.config.layers - 1)  # type: ignore[assignment]
        _start_at_zero(self.metanet.layers[-1])

    def directions(self, graph: ParameterGraph, features: Mapping[str, Tensor]) -> Params:
        """Δ from the NP layers."""
        return {n: t.squeeze(-1) for n, t in self.metanet(features).items()}


class FlatEditor(WeightEditor):
    """The same editor with an MLP on the flattened parameters."""

    def make_metanet(self, features: int) -> None:
        """Hidden layers of 8 times the graph metanet's node width."""
        self.shapes = dict(self.graph_of(self.inr).shapes)
        size = sum(prod(s) for s in self.shapes.values())
        wide = 8 * self.config.hidden
        layers = mlp([size, wide, wide, size])
        _start_at_zero(layers[-1])
        self.metanet = layers  # type: ignore[assignment]

    def directions(self, graph: ParameterGraph, features: Mapping[str, Tensor]) -> Params:
        """Δ from the MLP, which reads the values alone."""
        values = {n: t[..., 0] for n, t in features.items()}
        out = self.metanet(flatten(values, self.shapes))
        parts = out.split([prod(s) for s in self.shapes.values()], -1)
        return {n: p.unflatten(-1, s) for p, (n, s) in zip(parts, self.shapes.items(), strict=True)}


def _start_at_zero(module: nn.Module) -> None:
    for p in module.parameters():
        nn.init.zeros_(p)


EDITORS: dict[str, type[WeightEditor]] = {
    "gmn": WeightEditor,
    "np_nfn": NPEditor,
    "flat": FlatEditor,
}


@dataclass(frozen=True)
class TrainConfig:
    """How an editor is trained: Adam, warm-up and half a cosine, moving average of the weights."""

    steps: int = 30_000
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 200
    clip: float = 1.0
    average: float = 0.999
    check_every: int = 500


class EditTrainer:
    """Trains one editor for one edit on a set of INRs; a state dict continues it exactly.

    The editor sees weights. The loss is the mean squared error, in [-1, 1], between the rendered
    edited INR and the reference edit of the image that the INR was fitted to.
    """

    def __init__(
        self,
        data: InrSet,
        edit: str,
        editor: WeightEditor,
        config: TrainConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.device = config, device
        self.editor = editor.to(device)
        self.inr = data.template().to(device)
        with torch.no_grad():
            known = editor.prepare(data.params, data.config)
        self.params = {n: p.to(device) for n, p in known.items()}
        self.target = edited(data.targets(), edit).to(device)
        editor.measure(self.params)
        self.optimizer = torch.optim.Adam(editor.parameters(), lr=config.lr, betas=(0.9, 0.99))
        self.averaged = {n: p.detach().clone() for n, p in editor.state_dict().items()}
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.seconds, self.skipped = 0, 0.0, 0

    def _rate(self) -> float:
        c = self.config
        warm = min(1.0, (self.step + 1) / c.warmup)
        return c.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / c.steps)))

    def advance(self) -> float:
        """One step; returns the loss. A step with a non-finite gradient is counted and skipped."""
        started = time.perf_counter()
        c = self.config
        count = len(self.target)
        chosen = torch.randint(count, (min(c.batch, count),), generator=self.generator)
        chosen = chosen.to(self.device)
        done = self.editor({n: p[chosen] for n, p in self.params.items()})
        size = (self.target.shape[1], self.target.shape[2])
        loss = mse_loss(render(self.inr, size, done), self.target[chosen])
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.editor.parameters(), c.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        if bool(norm.isfinite()):
            self.optimizer.step()
        else:
            self.skipped += 1
        self.step += 1
        keep = min(c.average, self.step / (10 + self.step))
        with torch.no_grad():
            for name, p in self.editor.state_dict().items():
                self.averaged[name].lerp_(p, 1 - keep)
        self.seconds += time.perf_counter() - started
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs, as tensors and plain values."""
        return {
            "editor": self.editor.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "config": asdict(self.config),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; raises ValueError when it belongs to another run."""
        if not isinstance(state, dict) or state.get("config") != asdict(self.config):
            raise ValueError(
                f"The checkpoint was written with other settings ({state.get('config')}, now "
                f"{asdict(self.config)}). Continue with the same, or start anew."
            )
        try:
            self.editor.load_state_dict(state["editor"])
            self.averaged = {n: t.to(self.device) for n, t in state["averaged"].items()}
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"The checkpoint is of another editor: {error}") from error
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.skipped = state["skipped"]

    def result(self) -> WeightEditor:
        """A copy of the editor with averaged weights, frozen."""
        copy = type(self.editor)(self.editor.inr, self.editor.config).to(self.device)
        copy.load_state_dict(self.averaged)
        return copy.requires_grad_(False).eval()


@torch.no_grad()
def rendered_edits(
    editor: WeightEditor, data: InrSet, strength: float = 1.0, batch: int = 100
) -> Tensor:
    """What edited INRs show, ``[N, H, W, C]`` on the CPU, not cut off at the range."""
    device = editor.scale.device
    inr, size = data.template().to(device), tuple(data.images.shape[1:3])
    rows = []
    for start in range(0, len(data), batch):
        some = {n: p[start : start + batch].to(device) for n, p in data.params.items()}
        rows.append(render(inr, size, editor(some, data.config, strength)).cpu())
    return torch.cat(rows)


def some_of(data: InrSet, count: int) -> InrSet:
    """The first INRs of a set."""
    return InrSet(
        data.config,
        {n: p[:count] for n, p in data.params.items()},
        data.images[:count],
        None if data.labels is None else data.labels[:count],
        data.psnr[:count],
        data.manifest,
    )


def new_editor(kind: str, inr: InrConfig, config: EditorConfig, seed: int) -> WeightEditor:
    """A fresh editor; raises ValueError for an unknown kind."""
    if kind not in EDITORS:
        raise ValueError(f"There is no editor {kind!r}; there are {', '.join(EDITORS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EDITORS[kind](inr, config)
