"""From INRs to pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gmn_opt.inr.base import Inr

#: Most points evaluated at once where no gradient is recorded; bounds the memory.
POINTS_AT_ONCE = 1 << 18


def coordinates(
    size: int | tuple[int, ...],
    inputs: int = 2,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Pixel centres of an image, ``[height * width, 2]`` in [-1, 1], rows first.

    The first and the last pixel of an axis lie at -1 and 1, as in Sitzmann et al. 2020. An int
    makes all ``inputs`` axes of that size. An axis of one pixel lies at 0.
    """
    sizes = (size,) * inputs if isinstance(size, int) else tuple(size)
    if len(sizes) != inputs or min(sizes) < 1:
        raise ValueError(
            f"coordinates() needs {inputs} positive sizes, received {size}; one per coordinate."
        )
    axes = [
        torch.linspace(-1, 1, n, dtype=dtype, device=device)
        if n > 1
        else torch.zeros(1, dtype=dtype, device=device)
        for n in sizes
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def render(
    inr: Inr, size: int | tuple[int, ...], params: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The image that an INR represents, ``[H, W, outputs]`` in ``inr.config.value_range``.

    Args:
        inr: The network; with ``params``, only its kind and sizes count.
        size: Side of a square image, or ``(H, W)``.
        params: Stacked parameters of N networks, ``{name: [N, *shape]}``.

    Returns:
        ``[H, W, outputs]``, or ``[N, H, W, outputs]`` with ``params``. Values are as the network
        gives them: they may lie outside the range. Differentiable.

    Raises ValueError when ``params`` are not those of ``inr``.
    """
    sizes = (size,) * inr.config.inputs if isinstance(size, int) else tuple(size)
    if params is None:
        values = render(inr, size, {n: p.unsqueeze(0) for n, p in inr.named_parameters()})
        return values[0]
    count = inr.check_params(params)
    like = next(iter(params.values()))
    points = coordinates(sizes, inr.config.inputs, dtype=like.dtype, device=like.device)
    if torch.is_grad_enabled() and any(p.requires_grad for p in params.values()):
        values = inr.batched(params, points)
    else:
        values = _in_pieces(inr, params, points, count)
    return values.unflatten(1, sizes)


def _in_pieces(inr: Inr, params: Mapping[str, Tensor], points: Tensor, count: int) -> Tensor:
    """`Inr.batched` over pieces of the networks and of the points."""
    networks = max(1, POINTS_AT_ONCE // len(points))
    rows = []
    for start in range(0, count, networks):
        some = {n: p[start : start + networks] for n, p in params.items()}
        pieces = [inr.batched(some, piece) for piece in points.split(POINTS_AT_ONCE)]
        rows.append(torch.cat(pieces, 1))
    if not rows:
        return points.new_zeros(0, len(points), inr.config.outputs)
    return torch.cat(rows)


def psnr(image: Tensor, target: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Peak signal-to-noise ratio in dB over the last three dims, of images in ``value_range``."""
    peak = value_range[1] - value_range[0]
    error = (image - target).square().mean((-3, -2, -1))
    # 120 dB at most, so that an exact copy has a number
    return 10 * torch.log10(peak**2 / error.clamp_min(peak**2 * 1e-12))
