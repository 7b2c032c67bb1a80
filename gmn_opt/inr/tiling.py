"""How an image is cut into overlapping tiles, and put together again without seams.

All tiles have one size. Neighbours share a band of at least twice the margin, in which one fades
into the other: smooth weights, which fall towards the edge of every tile, are brought to a sum of 1
at every place. No tile reaches beyond the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """A grid of tiles over an image of ``height`` by ``width`` pixels.

    Attributes:
        height, width: Of the image.
        core: Pixels along each side that a tile has for itself.
        margin: Pixels around them, at least, that it shares with its neighbours.
    """

    height: int
    width: int
    core: int = 32
    margin: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError for an image below 2 by 2 pixels, or tiles that do not overlap."""
        numbers = (self.height, self.width, self.core, self.margin)
        if any(type(n) is not int for n in numbers) or min(self.height, self.width) < 2:
            raise ValueError(f"An image of tiles needs at least 2 by 2 pixels, received {self}.")
        if self.core < 1 or self.margin < 1:
            raise ValueError(f"Tiles need a core and a margin of at least 1, received {self}.")

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of every tile."""
        most = self.core + 2 * self.margin
        return min(self.height, most), min(self.width, most)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        rows, columns = (
            1 if side == whole else math.ceil((whole - 2 * self.margin) / self.core)
            for whole, side in zip((self.height, self.width), self.side, strict=True)
        )
        return rows, columns

    def __len__(self) -> int:
        """Number of tiles."""
        return self.grid[0] * self.grid[1]

    def starts(self, axis: int) -> list[int]:
        """First pixel of the tiles along an axis, evenly spread."""
        whole, side, count = (self.height, self.width)[axis], self.side[axis], self.grid[axis]
        return [round(i * (whole - side) / max(1, count - 1)) for i in range(count)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {n: getattr(self, n) for n in ("height", "width", "core", "margin")}

    def _fade(self, axis: int) -> float:
        """Pixels over which a tile fades."""
        starts = self.starts(axis)
        steps = [b - a for a, b in pairwise(starts)]
        return float(self.side[axis] - max(steps)) if steps else 1.0

    def places(self, axis: int, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Which lines of a rendered image every tile draws, and with which weight.

        Args:
            axis: 0 for rows, 1 for columns.
            count: Lines of the rendered image; by default those of the image. The first and the
                last lie at the image's first and last.

        Returns:
            For K tiles and the most lines M that one of them draws: lines int64 ``[K, M]``; their
            coordinates in the tile, float64 ``[K, M]`` in [-1, 1]; weights float64 ``[K, M]``,
            which sum to 1 over the tiles that draw a line. Tiles of fewer lines repeat one at
            weight 0.
        """
        whole, side = (self.height, self.width)[axis], self.side[axis]
        count = whole if count is None else count
        middle = torch.full((1,), (whole - 1) / 2, dtype=torch.float64)
        lines = torch.linspace(0, whole - 1, count, dtype=torch.float64) if count > 1 else middle
        starts = torch.tensor(self.starts(axis), dtype=torch.float64)
        inside = lines - starts.unsqueeze(1)
        drawn = (inside >= 0) & (inside <= side - 1)
        edge = torch.minimum(inside, side - 1 - inside) + 0.5
        share = (edge / self._fade(axis)).clamp(0, 1)
        weight = torch.where(drawn, share * share * (3 - 2 * share), 0.0)
        weight = weight / weight.sum(0)
        most = int(drawn.sum(1).max())
        # drawn lines first, in their order
        order = torch.sort(~drawn, dim=1, stable=True).indices[:, :most]
        place = (2 * inside / (side - 1) - 1).clamp(-1, 1)
        return order, place.gather(1, order), weight.gather(1, order)


def cut(image: Tensor, tiling: Tiling) -> Tensor:
    """The tiles of an image.

    Args:
        image: ``[H, W, C]``.
        tiling: Of an image of this size.

    Returns:
        ``[T, h, w, C]``, row by row.

    Raises ValueError for an image of another size.
    """
    if image.dim() != 3 or image.shape[:2] != (tiling.height, tiling.width):
        raise ValueError(f"Expected an image [{tiling.height}, {tiling.width}, C] for {tiling}, "
                         f"received {list(image.shape)}.")  # fmt: skip
    height, width = tiling.side
    tops, lefts = tiling.starts(0), tiling.starts(1)
    return torch.stack([image[t : t + height, s : s + width] for t in tops for s in lefts])


def blend(tiles: Tensor, tiling: Tiling) -> Tensor:
    """The image ``[H, W, C]`` of tiles ``[T, h, w, C]``; `cut` backwards. Differentiable."""
    (rows, _, down), (columns, _, across) = tiling.places(0), tiling.places(1)
    out = tiles.new_zeros(tiling.height * tiling.width, tiles.shape[-1])
    place = (rows[:, None, :, None] * tiling.width + columns[None, :, None, :]).flatten()
    weight = (down[:, None, :, None] * across[None, :, None, :]).flatten(0, 1).unsqueeze(-1)
    drawn = (tiles * weight.to(tiles)).flatten(0, -2)
    return out.index_add(0, place.to(tiles.device), drawn).unflatten(0, (tiling.height, -1))


def bands(tiling: Tiling, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """What is drawn row of tiles by row of tiles, for an image of another size.

    Yields:
        The tiles of a row, the points ``[columns, n * m, 2]`` at which to evaluate them, weights
        ``[columns, n * m, 1]``, and which pixels of the flattened image these are, ``[columns,
        n * m]``.
    """
    (rows, y, down), (columns, x, across) = tiling.places(0, size[0]), tiling.places(1, size[1])
    count = len(columns)
    for at in range(len(rows)):
        shape = (count, rows.shape[1], columns.shape[1])
        points = torch.stack([y[at][None, :, None].expand(shape), x[:, None, :].expand(shape)], -1)
        weight = down[at][None, :, None] * across[:, None, :]
        place = rows[at][None, :, None] * size[1] + columns[:, None, :]
        these = slice(at * count, (at + 1) * count)
        yield these, points.flatten(1, 2), weight.flatten(1).unsqueeze(-1), place.flatten(1)


def seam_ratio(image: Tensor, tiling: Tiling, reference: Tensor | None = None) -> float:
    """Mean jump between neighbouring pixels where tiles meet, relative to that elsewhere.

    Tiles meet within the bands that they share. 1 says that nothing is to be seen of them.

    Args:
        image: ``[H, W, C]`` of the tiling's size.
        tiling: Of the image.
        reference: With an image that has no seams, jumps of the difference from it count: the
            picture's own edges then weigh on neither side.

    Raises ValueError for a tiling of one tile.
    """
    if len(tiling) == 1:
        raise ValueError("One tile has no seams.")
    shown = image.double() if reference is None else image.double() - reference.double()
    met, rest = [], []
    for axis in (0, 1):
        if tiling.grid[axis] == 1:
            continue
        jumps = shown.diff(dim=axis).abs().mean(-1).mean(1 - axis)
        _, _, weight = tiling.places(axis)
        lines, _, _ = tiling.places(axis)
        shared = torch.zeros((tiling.height, tiling.width)[axis], dtype=torch.int64)
        shared.index_add_(0, lines.flatten(), (weight.flatten() > 0).long())
        at_seam = (shared[1:] > 1) & (shared[:-1] > 1)
        met.append(jumps[at_seam])
        rest.append(jumps[~at_seam])
    return float(torch.cat(met).mean() / torch.cat(rest).mean().clamp_min(1e-12))
