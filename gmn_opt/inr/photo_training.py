"""Training of editors for tiled INRs, in two parts.

The network that predicts the edited image learns from photographs alone, whatever shows them. The
metanet's rounds learn to move weights towards an image, whatever the edit: they are trained once,
on tiles of several widths and depths and on all edits, and serve editors for other edits too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from gmn_opt.extras import lazy
from gmn_opt.inr.base import InrConfig, Params
from gmn_opt.inr.editor import EditorConfig, WeightEditor
from gmn_opt.inr.edits import EDITS, edited
from gmn_opt.inr.fitting import FitConfig, fit_batch
from gmn_opt.inr.refining import ImagePredictor
from gmn_opt.inr.rendering import render
from gmn_opt.inr.tiled_fitting import photo_config, tile_fit

if TYPE_CHECKING:
    import cv2
else:
    cv2 = lazy("cv2", "inr")

#: Pixels along each side of a tile, and of what surrounds it in a crop of a photograph.
TILE, _BORDER = 40, 8
#: Sides of the squares of photographs that crops are shrunk from.
_SIDES = (80, 400)
#: Of the predictor's first layer at initialization: at 1, SiLU is nearly linear on what comes out.
_GAIN = 4.0
#: Rate of kernels relative to that of all else.
_FASTER = 3.0
#: Share of crops whose channels change places.
_REDYED = 0.5
#: Hidden widths of the tiles that the rounds learn on, by family.
ARCHITECTURES = {"siren": ((48, 48), (32, 32), (40, 40, 40)), "grid": ((32,), (24,))}
PHOTO_EDITOR = EditorConfig(
    hidden=32, edge_hidden=8, layers=1, rounds=4, grid=TILE, vision=24, places=False, settle=160
)


@dataclass(frozen=True)
class PhotoTraining:
    """How one part is trained: half a cosine over a time.

    Attributes:
        seconds: CPU time of this process.
        batch: Crops or tiles per step.
        lr: Highest rate.
        fit_noise: Most standard deviation of what stands for the error of a fit, in [-1, 1].
        check_every: Steps between reports.
    """

    seconds: float = 150.0
    batch: int = 2
    lr: float = 7e-3
    fit_noise: float = 0.02
    check_every: int = 50

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which nothing could be trained."""
        if not (self.seconds > 0 and self.lr > 0) or self.batch < 1 or self.check_every < 1:
            raise ValueError(
                f"seconds, lr, batch and check_every must be positive, received {self}."
            )


#: Called with the share of the time that is over, the step, and the mean loss since the last call.
Report = Callable[[float, int, float], None]


def crops(
    photos: Sequence[Tensor], count: int, side: int, draw: np.random.Generator, noise: float = 0.0
) -> Tensor:
    """Pieces of photographs at random places and sizes, in random tones, turned or mirrored.

    In half of them channels change places: what is purple or pink is rare among photographs, and
    an edit of bright colours has to be known for all of them.

    Args:
        photos: uint8 ``[H, W, C]``.
        count: How many.
        side: Of the pieces; they are shrunk to it by area averaging, or enlarged.
        draw: Randomness.
        noise: Most standard deviation of grain, in levels.

    Returns:
        uint8 ``[count, side, side, C]``.
    """
    out = []
    for _ in range(count):
        photo = photos[int(draw.integers(len(photos)))]
        height, width, channels = photo.shape
        most = min(_SIDES[1], height, width)
        side_there = round(math.exp(draw.uniform(math.log(min(_SIDES[0], most)), math.log(most))))
        top = int(draw.integers(height - side_there + 1))
        left = int(draw.integers(width - side_there + 1))
        piece = photo[top : top + side_there, left : left + side_there].numpy()
        how = cv2.INTER_AREA if side_there > side else cv2.INTER_CUBIC
        piece = cv2.resize(piece, (side, side), interpolation=how).reshape(side, side, channels)
        values: Any = piece.astype(np.float32)
        if draw.random() < 0.5:
            values = 255 * (values / 255) ** math.exp(draw.normal(0, 0.25))
        if noise and draw.random() < 0.8:
            values = values + draw.normal(0, draw.uniform(0, noise), values.shape)
        if draw.random() < _REDYED:
            values = values[..., draw.permutation(channels)]
        values = np.rot90(values, int(draw.integers(4)))
        values = values[:, ::-1] if draw.random() < 0.5 else values
        out.append(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(out))


def train_predictor(
    predictor: ImagePredictor,
    photos: Sequence[Tensor],
    edit: str,
    config: PhotoTraining,
    seed: int,
    report: Report | None = None,
) -> dict[str, Any]:
    """Teach a predictor one edit, in place.

    Args:
        predictor: Without coordinates.
        photos: uint8 ``[H, W, C]``.
        edit: One of `EDITS`.
        config: Settings.
        seed: Of the crops.
        report: Of progress.

    Returns:
        Steps, seconds and the mean loss of the last ones.
    """
    draw = np.random.default_rng(seed)
    inner = slice(_BORDER, -_BORDER)

    def loss() -> Tensor:
        pieces = crops(photos, config.batch, TILE + 3 * _BORDER, draw, EDITS[edit].noise)
        shown = pieces.float() / 127.5 - 1
        target = edited(shown, edit)
        grain = draw.uniform(0, config.fit_noise)
        shown = shown + grain * torch.from_numpy(draw.standard_normal(shown.shape, np.float32))
        found, wanted = predictor(shown)[:, inner, inner], target[:, inner, inner]
        return mse_loss(cut_off_where_wanted(found, wanted), wanted)

    return _train(_Both(list(predictor.parameters()), config.lr), loss, config, report)


def cut_off_where_wanted(found: Tensor, wanted: Tensor) -> Tensor:
    """Predictions, of which those beyond black or white count as these where these are wanted.

    In use they are cut off there. A network that may go beyond need not learn where an edit
    saturates: half the error of glowing lines was there.
    """
    found = torch.where(wanted >= 1, found.clamp_max(1), found)
    return torch.where(wanted <= -1, found.clamp_min(-1), found)


@dataclass(frozen=True)
class TileSet:
    """Tiles fitted to crops: parameters ``{name: [N, *shape]}``, and the crops around them.

    ``crops`` are uint8 ``[N, side, side, C]`` with a border on each side.
    """

    config: InrConfig
    params: Params
    crops: Tensor


def make_tiles(
    photos: Sequence[Tensor],
    count: int,
    seed: int,
    fit: FitConfig | None = None,
    family: str = "siren",
) -> list[TileSet]:
    """``count`` tiles of each of a family's `ARCHITECTURES`, fitted to crops of photographs."""
    draw, sets = np.random.default_rng(seed), []
    for number, widths in enumerate(ARCHITECTURES[family]):
        config = photo_config(photos[0].shape[-1], widths, family)
        around = crops(photos, count, TILE + 2 * _BORDER, draw)
        inside = around[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
        found = fit_batch(inside, config, fit or tile_fit(config), seed=1000 * seed + number)
        sets.append(TileSet(config, found.params, around))
    return sets


def train_rounds(
    editor: WeightEditor,
    sets: Sequence[TileSet],
    edits: Sequence[str],
    config: PhotoTraining,
    seed: int,
    report: Report | None = None,
) -> dict[str, Any]:
    """Teach an editor's rounds to move tiles towards images, in place.

    Args:
        editor: With rounds; its predictor stays as it is.
        sets: See `make_tiles`.
        edits: Names; the images to move to are reference edits of the crops.
        config: Settings.
        seed: Of the draws.
        report: Of progress.

    Returns:
        Steps, seconds and the mean loss of the last ones.
    """
    assert editor.refinement is not None
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        editor.measure(sets[0].params, sets[0].config)

    def loss() -> Tensor:
        some = sets[int(draw.integers(len(sets)))]
        chosen = torch.from_numpy(draw.integers(len(some.crops), size=config.batch))
        edit = edits[int(draw.integers(len(edits)))]
        goal = edited(some.crops[chosen].float() / 127.5 - 1, edit)
        goal = goal[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
        done = editor({n: p[chosen] for n, p in some.params.items()}, some.config, goal=goal)
        shown = render(some.config.build(), (TILE, TILE), done)
        error = (shown - goal).square().mean((1, 2, 3))
        # in relation to the way that was to go, or sketches alone would count
        with torch.no_grad():
            crop = some.crops[chosen, _BORDER:-_BORDER, _BORDER:-_BORDER].float() / 127.5 - 1
            far = (crop - goal).square().mean((1, 2, 3))
        return (error / (far + 0.01)).mean()

    predictor = {id(p) for p in editor.refinement.predictor.parameters()}
    trained = [p for p in editor.parameters() if id(p) not in predictor]
    return _train(_Both(trained, config.lr, kernels=False), loss, config, report)


class _Both:
    """Muon (Jordan et al. 2024) for kernels, AdamW for all else.

    Convolutions learn an edit in about half the steps that AdamW alone takes.

    Args:
        parameters: Trained ones.
        lr: Highest rate, of AdamW.
        kernels: False for AdamW alone.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, kernels: bool = True) -> None:
        self.parameters = parameters
        self.kernels = [p for p in parameters if kernels and p.dim() == 4]
        # Muon takes matrices: the same numbers, by another shape
        self.flat = [nn.Parameter(p.detach().flatten(1)) for p in self.kernels]
        known = {id(p) for p in self.kernels}
        rest = [p for p in parameters if id(p) not in known]
        made: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr, betas=(0.9, 0.99), weight_decay=0.0)
        ]
        if self.flat:
            made.append(torch.optim.Muon(self.flat, _FASTER * lr, weight_decay=0.0))
        self.optimizers = [(o, float(o.param_groups[0]["lr"])) for o in made]

    def step(self, share: float) -> bool:
        """Move by this share of the highest rates; False where gradients are not finite."""
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not bool(norm.isfinite()):
            return False
        for flat, p in zip(self.flat, self.kernels, strict=True):
            flat.grad = None if p.grad is None else p.grad.flatten(1)
        for optimizer, lr in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * lr
            optimizer.step()
        return True


def _train(
    optimizer: _Both,
    loss: Callable[[], Tensor],
    config: PhotoTraining,
    report: Report | None,
) -> dict[str, Any]:
    started, step, recent = time.process_time(), 0, list[float]()
    mean = float("nan")
    while (done := (time.process_time() - started) / config.seconds) < 1 or step == 0:
        warm = min(1.0, (step + 1) / 30)
        value = loss()
        for p in optimizer.parameters:
            p.grad = None
        value.backward()
        if optimizer.step(warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))):
            recent.append(float(value.detach()))
        step += 1
        if step % config.check_every == 0:
            mean = sum(recent) / max(1, len(recent))
            recent = []
            if report is not None:
                report(done, step, mean)
    if recent and math.isnan(mean):
        mean = sum(recent) / len(recent)
    return {
        "steps": step,
        "seconds": round(time.process_time() - started, 1),
        "loss": mean,
    }


def new_photo_editor(
    edit: str,
    channels: int = 3,
    rounds_of: WeightEditor | None = None,
    seed: int = 0,
    family: str = "siren",
) -> WeightEditor:
    """An editor of tiled INRs whose predictor has learned nothing yet.

    Args:
        edit: What it is to do.
        channels: Of the images.
        rounds_of: An editor whose trained rounds it takes over.
        seed: Of the initial weights.
        family: Of the tiles, see `gmn_opt.inr.tiled_fitting.FAMILIES`.

    Raises ValueError when these rounds are of other sizes.
    """
    config = replace(PHOTO_EDITOR, edit=edit)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        editor = WeightEditor(photo_config(channels, family=family), config)
    assert editor.refinement is not None
    with torch.no_grad():
        for p in editor.refinement.predictor.layers[0].parameters():
            p.mul_(_GAIN)
    if rounds_of is not None:
        own = editor.state_dict()
        theirs = {n: t for n, t in rounds_of.state_dict().items() if ".predictor." not in n}
        if any(n not in own or own[n].shape != t.shape for n, t in theirs.items()):
            raise ValueError("These rounds belong to an editor of other sizes.")
        editor.load_state_dict({**own, **theirs})
    return editor
