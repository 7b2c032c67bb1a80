"""Tiled INRs: an image of any size as a grid of small networks.

As in KiloNeRF (Reiser et al. 2021, arXiv 2103.13744), each network has a small part of the whole
for itself. Unlike there, the parts overlap and fade into each other, so that no seams show, and all
networks have one architecture, so that they are one batch: fitted, edited and rendered together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from gmn_opt.inr.base import Inr, InrConfig, Params, config_from_dict
from gmn_opt.inr.rendering import POINTS_AT_ONCE, render
from gmn_opt.inr.tiling import Tiling, bands, blend
from gmn_opt.weights import WeightsError, WeightSet, load, save

KIND = "tiled inr"


@dataclass(frozen=True)
class TiledInr:
    """One network per tile of an image.

    Attributes:
        config: How each is built.
        tiling: Where each stands.
        params: ``{name: [T, *shape]}``, row by row.
        about: Plain values on how it was made.

    Raises ValueError for parameters that are not those of so many networks.
    """

    config: InrConfig
    tiling: Tiling
    params: Params
    about: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """See the class."""
        count = self.template().check_params(self.params)
        if count != len(self.tiling):
            raise ValueError(f"{self.tiling} takes {len(self.tiling)} networks, received {count}.")

    def __len__(self) -> int:
        """Number of networks."""
        return len(self.tiling)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.tiling.height, self.tiling.width

    def template(self) -> Inr:
        """A network of the kind; its parameters mean nothing."""
        with torch.random.fork_rng(devices=[]):
            return self.config.build().to(next(iter(self.params.values())))

    def tiles(self) -> Tensor:
        """What every network shows of its own tile, ``[T, h, w, outputs]``. Differentiable."""
        return render(self.template(), self.tiling.side, self.params)

    def render(self, size: tuple[int, int] | None = None) -> Tensor:
        """The image ``[H, W, outputs]``, blended, of its own size or another.

        Differentiable at its own size.
        """
        if size is None or size == self.size:
            return blend(self.tiles(), self.tiling)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"An image has a height and a width of at least 1, received {size}.")
        return self._render(size)

    @torch.no_grad()
    def _render(self, size: tuple[int, int]) -> Tensor:
        like, inr = next(iter(self.params.values())), self.template()
        out = like.new_zeros(size[0] * size[1], self.config.outputs)
        for these, points, weight, place in bands(self.tiling, size):
            some = {n: p[these] for n, p in self.params.items()}
            step = max(1, POINTS_AT_ONCE // len(points))
            for start in range(0, points.shape[1], step):
                now = slice(start, start + step)
                values = inr.batched(some, points[:, now].to(like)) * weight[:, now].to(like)
                out.index_add_(0, place[:, now].flatten().to(like.device), values.flatten(0, 1))
        return out.unflatten(0, size)

    def with_params(self, params: Mapping[str, Tensor], **about: Any) -> TiledInr:
        """The same grid with other networks; ``about`` is added to what is known of it."""
        return TiledInr(self.config, self.tiling, dict(params), {**self.about, **about})


def save_tiled(path: str | os.PathLike[str], tiled: TiledInr) -> None:
    """Write one safetensors file, whole or not at all; OSError when it cannot be written."""
    config = {
        "inr": tiled.config.to_dict(),
        "tiling": tiled.tiling.to_dict(),
        "about": tiled.about,
    }
    save(path, WeightSet(Path(path).stem, KIND, config, dict(tiled.params)))


def load_tiled(path: str | os.PathLike[str]) -> TiledInr:
    """Read what `save_tiled` wrote; raises WeightsError for anything else."""
    found = load(path, KIND)
    try:
        config, tiling = config_from_dict(found.config["inr"]), Tiling(**found.config["tiling"])
        # the order of a file is that of names
        with torch.random.fork_rng(devices=[]):
            names = [n for n, _ in config.build().named_parameters()]
        params = {n: found.tensors[n] for n in names} if names else {}
        if len(params) != len(found.tensors):
            raise ValueError(f"it holds {len(found.tensors)} tensors, not {len(params)}")
        return TiledInr(config, tiling, params, dict(found.config["about"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} holds no tiled INR that fits its description: {error}.") from (
            error
        )


def is_tiled(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it holds a tiled INR."""
    try:
        with safe_open(path, framework="pt") as file:
            return f'"kind": "{KIND}"' in (file.metadata() or {}).get("gmn_opt", "")
    except Exception:  # whatever is wrong with it, its reader says so better
        return False
