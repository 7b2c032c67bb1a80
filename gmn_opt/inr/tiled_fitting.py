"""Fitting a tiled INR to an image: all tiles in batches, on sampled pixels."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gmn_opt.inr.base import InrConfig, Params
from gmn_opt.inr.feature_pyramid import PyramidConfig
from gmn_opt.inr.fitting import FitConfig, as_targets, fit_batch
from gmn_opt.inr.rendering import psnr
from gmn_opt.inr.siren import SirenConfig
from gmn_opt.inr.tiled import TiledInr
from gmn_opt.inr.tiling import Tiling, cut
from gmn_opt.weights import WeightsError, WeightSet, load, save

#: Hidden widths of a tile's network that serve photographs.
WIDTHS = (48, 48)
#: Steps of 400 pixels: about 40 dB on a photograph of 256 pixels. Values between the pixels need no
#: care, unlike those of one network for a whole image: tiles are smooth there by themselves.
TILE_FIT = FitConfig(steps=400, pixels=400, target_psnr=None, check_every=50)
#: What tiles can be, by the name on the command line.
FAMILIES: dict[str, type[InrConfig]] = {"siren": SirenConfig, "grid": PyramidConfig}
_GRID_RATE = 4e-2
#: Tiles that end below so many dB are fitted anew, for longer.
LEAST_PSNR = 34.0
_LONGER = 2.5
#: Steps by which time is estimated, and about how many of them a look at all pixels takes.
_TIMED, _LOOK = 6, 1.3
_PARTS = "parts of a tiled inr"


@dataclass(frozen=True)
class FitProgress:
    """How far a fit is: share of all steps, PSNR in dB of the tiles so far, seconds."""

    done: float
    psnr: float
    seconds: float

    @property
    def left(self) -> float:
        """Seconds that are left, at the pace so far."""
        return self.seconds * (1 - self.done) / max(self.done, 1e-9)


def photo_config(
    channels: int, widths: tuple[int, ...] | None = None, family: str = "siren"
) -> InrConfig:
    """The network of a photograph's tile.

    Args:
        channels: Of the photograph.
        widths: Of the hidden layers; by default what serves the family.
        family: One of `FAMILIES`.

    Raises ValueError for another one.
    """
    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r}; there are {', '.join(FAMILIES)}.")
    kind = FAMILIES[family]
    made = kind(2, channels) if family == "grid" else kind(2, channels, WIDTHS)
    return made if widths is None else replace(made, widths=widths)


def tile_fit(config: InrConfig) -> FitConfig:
    """Settings that serve a family; features of grids learn at higher rates."""
    return replace(TILE_FIT, lr=_GRID_RATE) if isinstance(config, PyramidConfig) else TILE_FIT


def fit_tiles(
    image: Tensor,
    config: InrConfig | None = None,
    fit: FitConfig | None = None,
    *,
    core: int = 32,
    margin: int = 4,
    seed: int = 0,
    parts: str | os.PathLike[str] | None = None,
    on_progress: Callable[[FitProgress], None] | None = None,
) -> TiledInr:
    """Fit a tiled INR to an image.

    Args:
        image: uint8 or floating point ``[H, W, C]``, see `as_targets`.
        config: Of the networks; by default `photo_config`.
        fit: Settings; by default `tile_fit`.
        core, margin: See `Tiling`.
        seed: Of the initial parameters.
        parts: A file in which finished tiles are kept, so that a fit that was stopped goes on
            where it was; removed at the end.
        on_progress: Called at every look.

    Returns:
        A tiled INR; its ``about`` says how it was made.

    Raises ValueError for no image, or when ``parts`` are of another fit.
    """
    started = time.perf_counter()
    config = config or photo_config(image.shape[-1])
    fit = fit or tile_fit(config)
    if image.dim() != 3:
        raise ValueError(f"Expected an image [H, W, C], received {list(image.shape)}.")
    tiling = Tiling(image.shape[0], image.shape[1], core, margin)
    whole = as_targets(image.unsqueeze(0), config)[0]
    targets = cut(whole, tiling)
    made = {"inr": config.to_dict(), "tiling": tiling.to_dict(), "fit": fit.to_dict(),
            "seed": seed, "image_sha256": digest(image)}  # fmt: skip
    kept = _Parts(None if parts is None else Path(parts), made)
    report = _Reporter(len(targets), fit.steps, len(kept.psnr), started, on_progress)
    for start in range(len(kept.psnr), len(targets), fit.slots):
        some = targets[start : start + fit.slots]
        keys = range(start, start + len(some))
        found = fit_batch(some, config, fit, seed=seed, keys=keys, on_check=report.look)
        kept.add(found.params, found.psnr)
        report.finish(found.psnr)
    params, reached = kept.params, kept.psnr
    weak = (reached < LEAST_PSNR).nonzero().squeeze(1)
    if len(weak):
        longer = replace(fit, steps=round(_LONGER * fit.steps))
        own = [int(i) for i in weak]
        again = fit_batch(targets[weak], config, longer, seed=seed, keys=own)
        better = again.psnr > reached[weak]
        at = weak[better]
        for name, p in params.items():
            p[at] = again.params[name][better]
        reached[at] = again.psnr[better]
    tiled = TiledInr(config, tiling, params)
    shown = float(psnr(tiled.render(), whole, config.value_range))
    about = {
        **made, "psnr": round(shown, 2), "worst_tile_psnr": round(float(reached.min()), 2),
        "refitted_tiles": len(weak), "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    kept.remove()
    return tiled.with_params(params, **about)


def estimate(image: Tensor, config: InrConfig | None = None, fit: FitConfig | None = None) -> float:
    """Seconds that `fit_tiles` will take, from a few steps on the first tiles."""
    config = config or photo_config(image.shape[-1])
    fit = fit or tile_fit(config)
    tiling = Tiling(image.shape[0], image.shape[1])
    some = cut(as_targets(image.unsqueeze(0), config)[0], tiling)[: fit.slots]
    fit_batch(some, config, replace(fit, steps=1, check_every=1))  # what only first calls cost
    found = fit_batch(some, config, replace(fit, steps=_TIMED, check_every=_TIMED))
    per_step = found.seconds / (_TIMED + _LOOK)
    steps = fit.steps * (1 + _LOOK / fit.check_every)
    return per_step * steps * len(tiling) / len(some)


def digest(image: Tensor) -> str:
    """sha256 of the pixels and their shape."""
    head = json.dumps([list(image.shape), str(image.dtype)]).encode()
    return hashlib.sha256(head + image.cpu().contiguous().numpy().tobytes()).hexdigest()


class _Reporter:
    """Turns looks at batches into progress over all tiles."""

    def __init__(
        self, total: int, steps: int, before: int, started: float,
        on_progress: Callable[[FitProgress], None] | None,
    ) -> None:  # fmt: skip
        self.total, self.steps, self.before, self.started = total, steps, before, started
        self.call, self.done, self.sum = on_progress, 0, 0.0

    def look(self, step: int, now: Tensor) -> None:
        if self.call is None:
            return
        done = (self.done + len(now) * step / self.steps) / max(1, self.total - self.before)
        mean = (self.sum + float(now.sum())) / (self.done + len(now))
        self.call(FitProgress(min(1.0, done), mean, time.perf_counter() - self.started))

    def finish(self, psnr: Tensor) -> None:
        self.done += len(psnr)
        self.sum += float(psnr.sum())


class _Parts:
    """Finished tiles, in memory and in a file if there is to be one."""

    def __init__(self, path: Path | None, made: dict[str, object]) -> None:
        self.path, self.made = path, made
        self.params: Params = {}
        self.psnr = torch.empty(0)
        if path is None or not path.exists():
            return
        found = load(path, _PARTS)
        if found.config != json.loads(json.dumps(made)):
            raise WeightsError(
                f"{path} holds parts of another fit: of another image, or with other settings. "
                "Remove it to begin anew."
            )
        tensors = dict(found.tensors)
        self.psnr = tensors.pop("psnr")
        self.params = {n.removeprefix("params."): t for n, t in tensors.items()}

    def add(self, params: Params, psnr: Tensor) -> None:
        old = self.params or {n: p[:0] for n, p in params.items()}
        self.params = {n: torch.cat([old[n], p]) for n, p in params.items()}
        self.psnr = torch.cat([self.psnr, psnr])
        if self.path is not None:
            tensors = {f"params.{n}": p for n, p in self.params.items()} | {"psnr": self.psnr}
            save(self.path, WeightSet(self.path.stem, _PARTS, dict(self.made), tensors))

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
