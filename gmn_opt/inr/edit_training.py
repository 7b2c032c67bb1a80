"""Training of weight editors through the rendered image."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from gmn_opt.inr.augmentation import (
    SYMMETRIES,
    random_tones,
    toned,
    toned_images,
    turned,
    turned_images,
)
from gmn_opt.inr.base import Inr, Params
from gmn_opt.inr.editor import WeightEditor
from gmn_opt.inr.edits import edited
from gmn_opt.inr.gallery import levels
from gmn_opt.inr.rendering import render
from gmn_opt.inr.sets import InrSet
from gmn_opt.weights.digest import digest


@dataclass(frozen=True)
class TrainConfig:
    """How an editor is trained: AdamW, warm-up and half a cosine, moving average of the weights.

    Attributes:
        steps: Steps of the whole run, unless ``seconds`` ends it.
        seconds: Time for the steps, by which learning rate and end go then, so that a run on any
            budget ends at rate zero: the process's CPU time, or wall time on a GPU.
        batch: INRs per step.
        lr, weight_decay: Of AdamW; biases, norms and scales do not decay.
        scale_lr: Learning rate of the editor's scales, relative.
        warmup: Share of the run before the full rate.
        predicted: Weight of the error of the image that an editor with rounds predicts; that of
            the image that it reaches weighs 1.
        clip: Most norm of the gradient.
        average: Decay of the moving average.
        symmetries: Whether every INR, and its image, is drawn under one of the square's symmetries.
        tones: Least contrast, relative, of images drawn in other tones (with the reference edit of
            those); 1 to leave tones as they are.
        check_every: Steps between looks at the validation error.
    """

    steps: int = 30_000
    seconds: float | None = None
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.0
    scale_lr: float = 1.0
    warmup: float = 0.02
    predicted: float = 1.0
    clip: float = 1.0
    average: float = 0.999
    symmetries: bool = True
    tones: float = 1.0
    check_every: int = 500

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which nothing could be trained."""
        least = min(self.steps, self.batch, self.check_every)
        if least < 1 or not self.lr > 0 or (self.seconds is not None and not self.seconds > 0):
            raise ValueError(
                "steps, batch and check_every must be at least 1, lr and seconds positive, "
                f"received {self}."
            )
        if not 0 < self.tones <= 1:
            raise ValueError(f"tones must lie in (0, 1], received {self.tones}.")


@dataclass(frozen=True)
class _Material:
    """A set of INRs ready to train on: parameters as an edit starts from, and references."""

    inr: Inr
    params: Params
    images: Tensor
    references: Tensor


class EditTrainer:
    """Trains one editor for one edit on sets of INRs; a state dict continues it exactly.

    The editor sees weights. The loss is the mean squared error, in [-1, 1], between the rendered
    edited INR and the reference edit of the image that the INR was fitted to. A batch is of one
    set, drawn at random; units of the weights are those of the first set.
    """

    def __init__(
        self,
        data: Sequence[InrSet],
        edit: str,
        editor: WeightEditor,
        config: TrainConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        """Raise ValueError for INRs that the editor was not made for."""
        self.config, self.device, self.edit = config, device, edit
        self.data = digest(t for d in data for t in (d.images, *d.params.values()))
        self.editor = editor.to(device)
        self.material = []
        for some in data:
            editor.graph_of(some.config)  # refuse before any work
            _check_grid(editor, some)
            with torch.no_grad():
                known = editor.prepare(some.params, some.config)
            params = {n: p.to(device) for n, p in known.items()}
            images = under_symmetries(some, config.symmetries)
            wanted = torch.stack([levels(edited(_values(i), edit)) for i in images]).to(device)
            self.material.append(_Material(some.template().to(device), params, images, wanted))
        editor.measure(self.material[0].params, data[0].config)
        self.optimizer = _optimizer(editor, config)
        self.generator = torch.Generator().manual_seed(seed)
        self.skipped = 0
        self._begin(0, 0.0, editor.state_dict())
        self.best: dict[str, Any] | None = None

    def _begin(self, step: int, seconds: float, averaged: dict[str, Tensor]) -> None:
        """Schedule and moving average as they are after so many steps."""
        self.step, self.seconds = step, seconds
        for group, factor in zip(
            self.optimizer.param_groups, (1.0, 1.0, self.config.scale_lr), strict=True
        ):
            group["initial_lr"] = self.config.lr * factor
        self.schedule = LambdaLR(self.optimizer, lambda _: self._rate())
        self._average = AveragedModel(self.editor, multi_avg_fn=self._mean)
        self._average.module.load_state_dict(averaged)
        self._average.n_averaged.fill_(step + 1)

    @property
    def averaged(self) -> dict[str, Tensor]:
        """Moving average of the editor's weights."""
        found: dict[str, Tensor] = self._average.module.state_dict()
        return found

    def _mean(self, average: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
        """Weighs the new one more while there are few."""
        keep = min(self.config.average, int(count) / (10 + int(count)))
        for mine, theirs in zip(average, new, strict=True):
            mine.lerp_(theirs, 1 - keep)

    @property
    def progress(self) -> float:
        """Share of the run that is done, 1 at its end."""
        c = self.config
        return min(1.0, self.step / c.steps if c.seconds is None else self.seconds / c.seconds)

    def _rate(self) -> float:
        """Learning rate, relative to the highest."""
        done = self.progress
        warm = 1.0 if done >= self.config.warmup else (done or 1e-3) / self.config.warmup
        return warm * 0.5 * (1 + math.cos(math.pi * done))

    def _clock(self) -> float:
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def _draw(self) -> tuple[Inr, Params, Tensor]:
        """An INR of the kind, parameters ``{name: [B, *shape]}``, images wanted [B, H, W, C]."""
        which = 0
        if len(self.material) > 1:
            which = int(torch.randint(len(self.material), (), generator=self.generator))
        some = self.material[which]
        symmetries, count = some.images.shape[:2]
        size = (min(self.config.batch, count),)
        chosen = torch.randint(count, size, generator=self.generator).to(self.device)
        params = {n: p[chosen] for n, p in some.params.items()}
        turn = torch.zeros_like(chosen)
        if symmetries > 1:
            turn = torch.randint(symmetries, size, generator=self.generator).to(self.device)
            params = turned(params, turn)
        if self.config.tones == 1:
            return some.inr, params, _values(some.references[turn, chosen])
        images = _values(some.images[turn.cpu(), chosen.cpu()])
        tones = random_tones(
            len(images), images.shape[-1], self.config.tones, generator=self.generator
        )
        target = edited(toned_images(images, *tones), self.edit).to(self.device)
        return some.inr, toned(params, *tones), target

    def advance(self) -> float:
        """One step; returns the loss. A step with a non-finite gradient is counted and skipped."""
        started = self._clock()
        inr, params, target = self._draw()
        size = (target.shape[1], target.shape[2])
        refinement = self.editor.refinement
        goal = None if refinement is None else refinement.goal(inr, params)
        shown = self.editor.show(params, inr.config, size, goal)
        objective = loss = mse_loss(shown, target)
        if goal is not None:
            objective = loss + self.config.predicted * mse_loss(goal, target)
        self.optimizer.zero_grad()
        objective.backward()
        norm = nn.utils.clip_grad_norm_(self.editor.parameters(), self.config.clip)
        if not bool(norm.isfinite()):
            self.skipped += 1
            self.optimizer.zero_grad()  # without gradients, a step changes nothing
        self.optimizer.step()
        self.step += 1
        self._average.update_parameters(self.editor)
        value = loss.item()
        self.seconds += self._clock() - started
        self.schedule.step()
        return value

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
            "best": self.best,
            "config": asdict(self.config),
            "edit": self.edit,
            "data": self.data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; raises ValueError when it belongs to another run."""
        if not isinstance(state, dict) or state.get("config") != asdict(self.config):
            found = state.get("config") if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"The checkpoint was written with other settings ({found}, now "
                f"{asdict(self.config)}). Continue with the same, or start anew."
            )
        if (state.get("edit"), state.get("data")) != (self.edit, self.data):
            raise ValueError(
                f"The checkpoint is of the edit {state.get('edit')!r} or of other INRs, this run "
                f"trains {self.edit!r}. Continue with the same, or start anew."
            )
        try:
            self.editor.load_state_dict(state["editor"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._begin(state["step"], state["seconds"], state["averaged"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"The checkpoint is of another editor: {error}") from error
        self.generator.set_state(state["generator"])
        self.skipped, self.best = state["skipped"], state["best"]

    def compare(self, error: float) -> None:
        """Keep the averaged weights if their validation error is the lowest so far."""
        if self.best is None or error < self.best["error"]:
            weights = {n: t.clone() for n, t in self.averaged.items()}
            self.best = {"step": self.step, "error": error, "weights": weights}

    def result(self, best: bool = False) -> WeightEditor:
        """A copy of the editor with averaged weights, frozen: those of now, or the best."""
        copy = type(self.editor)(self.editor.inr, self.editor.config).to(self.device)
        copy.load_state_dict(self.best["weights"] if best and self.best else self.averaged)
        return copy.requires_grad_(False).eval()


def _check_grid(editor: WeightEditor, data: InrSet) -> None:
    height, width = data.images.shape[1:3]
    grid = editor.refinement.grid if editor.refinement else None
    if grid is not None and (height, width) != (grid, grid):
        raise ValueError(
            f"The editor renders {grid} x {grid} pixels, the images have {height} x {width}. Make "
            "it with the images' grid."
        )


def under_symmetries(data: InrSet, symmetries: bool) -> Tensor:
    """The images, uint8 ``[S, N, H, W, C]``, under each of the square's symmetries or as they are.

    The turned image is to be edited, not the edit turned: an edit need not commute with symmetries,
    as the tiles of CLAHE do not. Images that are not square have four.
    """
    images = levels(data.targets())
    square = images.shape[1] == images.shape[2]
    count = (SYMMETRIES if square else SYMMETRIES // 2) if symmetries else 1
    return torch.stack([turned_images(images, which) for which in range(count)])


def _values(pixels: Tensor) -> Tensor:
    """The inverse of `levels`, float32."""
    return pixels.float() / 127.5 - 1


def _optimizer(editor: WeightEditor, config: TrainConfig) -> torch.optim.AdamW:
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for p in editor.parameters():
        if p is not editor.scale:
            (matrices if p.dim() > 1 else vectors).append(p)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
        {"params": [editor.scale], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)


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
        rows.append(render(inr, size, editor.edit_batch(some, data.config, strength)).cpu())
    return torch.cat(rows)
