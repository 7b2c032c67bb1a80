"""Other INRs of moved images, without fitting: the coordinates are moved by the first layer.

An image seen through ``x -> A x + t`` has the same INR but for its first layer, W A and W t + b.
The symmetries of the square move pixels onto pixels, so that what is shown is exact; other moves
show the network between its pixels too. Likewise the last layer makes other tones, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gmn_opt.inr.base import Params


@dataclass(frozen=True)
class Moves:
    """How far images are moved.

    Attributes:
        turn: Standard deviation of the angle, in degrees.
        zoom: Standard deviation of the scale, relative.
        shift: Standard deviation of the shift along each axis, as a share of the image's side.
        mirror: Whether half of the images are mirrored, left and right.
    """

    turn: float = 6.0
    zoom: float = 0.08
    shift: float = 0.03
    mirror: bool = True


def moved(
    params: Mapping[str, Tensor], moves: Moves, generator: torch.Generator | None = None
) -> Params:
    """INRs of the same images, each turned, zoomed, shifted and mirrored at random.

    Args:
        params: ``{name: [N, *shape]}`` of INRs of images whose first layer ``layers.0`` reads
            (row, column): SIRENs.
        moves: How far.
        generator: Of the draws; N networks are moved independently.

    Returns:
        The same shapes; all but the first layer are the tensors given.
    """
    weight, bias = params["layers.0.weight"], params["layers.0.bias"]
    count = len(weight)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(weight)

    angle = normal() * (moves.turn * math.pi / 180)
    scale = 1 + moves.zoom * normal()
    flip = torch.ones_like(angle)
    if moves.mirror:
        flip = (torch.randint(2, (count,), generator=generator) * 2 - 1).to(weight)
    rows = torch.stack([angle.cos() * scale, -angle.sin() * scale * flip], -1)
    columns = torch.stack([angle.sin() * scale, angle.cos() * scale * flip], -1)
    matrix = torch.stack([rows, columns], -2)
    shift = 2 * moves.shift * normal(2, 1)
    return {
        **params,
        "layers.0.weight": weight @ matrix,
        "layers.0.bias": bias + (weight @ shift).squeeze(-1),
    }


#: Symmetries of the square: four flips, then the same with the axes exchanged.
SYMMETRIES = 8


def turned(params: Mapping[str, Tensor], which: Tensor) -> Params:
    """INRs of the same images under symmetries of the square; see `turned_images`.

    Args:
        params: ``{name: [N, *shape]}`` of SIRENs, as in `moved`.
        which: int64 ``[N]`` below `SYMMETRIES`: 1 flips rows, 2 flips columns, then 4 exchanges
            rows and columns.

    Returns:
        The same shapes; all but the first layer's weights are the tensors given.
    """
    weight = params["layers.0.weight"]
    signs = 1 - 2 * torch.stack([which & 1, (which >> 1) & 1], -1)
    flipped = weight * signs.to(weight).unsqueeze(-2)
    exchanged = (which & 4 > 0).view(-1, 1, 1)
    return {**params, "layers.0.weight": torch.where(exchanged, flipped.flip(-1), flipped)}


def turned_images(images: Tensor, which: int) -> Tensor:
    """Images ``[N, H, W, C]`` under one symmetry of the square, numbered as in `turned`.

    Raises ValueError for a number that is none, or exchanged axes of an image that is not square.
    """
    if not 0 <= which < SYMMETRIES or (which & 4 and images.shape[1] != images.shape[2]):
        raise ValueError(
            f"There are {SYMMETRIES} symmetries of a square and, numbers 0 to 3, 4 of other "
            f"images; received number {which} for images {list(images.shape)}."
        )
    axes = [axis for axis, bit in ((1, 1), (2, 2)) if which & bit]
    out = images.flip(axes)
    return out.transpose(1, 2) if which & 4 else out


def random_tones(
    count: int, channels: int, least: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Changes of tone ``value -> mix @ value + shift`` that stay within [-1, 1].

    Contrast falls by a factor between ``least`` and 1, brightness moves as far as that allows, and
    channels are exchanged.

    Returns:
        ``[count, channels, channels]`` and ``[count, channels]``.

    Raises ValueError for a factor that is not in (0, 1].
    """
    if not 0 < least <= 1:
        raise ValueError(f"Contrast falls by a factor in (0, 1], received {least}.")
    gain = least + (1 - least) * torch.rand(count, 1, generator=generator)
    shift = (2 * torch.rand(count, 1, generator=generator) - 1) * (1 - gain)
    order = torch.rand(count, channels, generator=generator).argsort(-1)
    mix = torch.nn.functional.one_hot(order, channels) * gain.unsqueeze(-1)
    return mix, shift.expand(-1, channels)


def toned(params: Mapping[str, Tensor], mix: Tensor, shift: Tensor) -> Params:
    """INRs of the same images in other tones.

    Args:
        params: ``{name: [N, *shape]}`` of SIRENs, whose last layer is linear.
        mix: ``[N, C, C]``.
        shift: ``[N, C]``, see `random_tones`.

    Returns:
        The same shapes; all but the last layer are the tensors given.
    """
    last = f"layers.{len(params) // 2 - 1}"
    weight, bias = params[f"{last}.weight"], params[f"{last}.bias"]
    mix, shift = mix.to(weight), shift.to(weight)
    return {
        **params,
        f"{last}.weight": mix @ weight,
        f"{last}.bias": (mix @ bias.unsqueeze(-1)).squeeze(-1) + shift,
    }


def toned_images(images: Tensor, mix: Tensor, shift: Tensor) -> Tensor:
    """Images ``[N, H, W, C]`` in the tones of `toned`."""
    mix, shift = mix.to(images), shift.to(images)
    return torch.einsum("ncd,nhwd->nhwc", mix, images) + shift[:, None, None]
