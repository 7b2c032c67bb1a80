"""Models that invite wrong symmetries: values leave the graph, or order matters in hidden ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Body = Callable[["Trap", Tensor], Tensor]


class Trap(nn.Module):
    """Linear, something strange in the middle, Linear."""

    ramp: Tensor
    matrix: Tensor

    def __init__(self, middle: Body) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("ramp", torch.linspace(0.5, 2, 6))
        self.register_buffer("matrix", torch.randn(6, 6))
        self.gain = nn.Parameter(torch.randn(6))
        self.codes = nn.Parameter(torch.randn(5, 6))
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.b(self.middle(self, torch.tanh(self.a(x))))


def if_first(m: Trap, h: Tensor) -> Tensor:
    return h * 2 if h[0, 0] > 0 else h - 1


def if_sum(m: Trap, h: Tensor) -> Tensor:
    return h * m.gain if h.sum() > 0 else h - m.gain


def list_of_data(m: Trap, h: Tensor) -> Tensor:
    i = int(h.sum(0).argmax())
    return h * h[:, [i]]


def input_as_list(m: Trap, h: Tensor) -> Tensor:
    """Which channel counts is told by an input through Python."""
    i = int(m.seen.abs().sum(0).argmax())
    return h * h[:, [i]]


def slice_by_data(m: Trap, h: Tensor) -> Tensor:
    i = 1 + int(m.seen.abs().sum(0).argmax())
    return h + h[:, :i].sum(1, keepdim=True)


def through_numpy(m: Trap, h: Tensor) -> Tensor:
    return h + torch.from_numpy(np.sort(h.detach().numpy(), axis=-1))


def through_list(m: Trap, h: Tensor) -> Tensor:
    return h + torch.tensor(h.tolist()).to(h.dtype).flip(-1)


def through_data(m: Trap, h: Tensor) -> Tensor:
    return h + h.data.roll(1, -1)


def weight_data(m: Trap, h: Tensor) -> Tensor:
    return h + m.a.weight.data[:, 0]


def weight_data_ramp(m: Trap, h: Tensor) -> Tensor:
    return h * m.gain.data.cumsum(0)


def item_of_channel(m: Trap, h: Tensor) -> Tensor:
    return h * h[:, 2].mean().item()


def topk_routing(m: Trap, h: Tensor) -> Tensor:
    value, where = h.topk(2, -1)
    return torch.zeros_like(h).scatter(-1, where, value)


def topk_codes(m: Trap, h: Tensor) -> Tensor:
    where = h.topk(1, -1).indices[:, 0]
    return h + m.codes[where % 5]


def argmax_embedding(m: Trap, h: Tensor) -> Tensor:
    return h + F.one_hot(h.argmax(-1), 6)


def vq_codebook(m: Trap, h: Tensor) -> Tensor:
    nearest = torch.cdist(h, m.codes).argmin(-1)
    return m.codes[nearest]


def fourier(m: Trap, h: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(h) * 2, n=6) + torch.fft.fft(h).abs()


def ramp_scale(m: Trap, h: Tensor) -> Tensor:
    return h * m.ramp


def number_list(m: Trap, h: Tensor) -> Tensor:
    return h * torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=h.dtype)


def arange_shift(m: Trap, h: Tensor) -> Tensor:
    return h + torch.arange(6)


def fixed_matrix(m: Trap, h: Tensor) -> Tensor:
    return h @ m.matrix


def cumulative(m: Trap, h: Tensor) -> Tensor:
    return h.cumsum(-1)


def flipped(m: Trap, h: Tensor) -> Tensor:
    return h + h.flip(-1)


def rolled(m: Trap, h: Tensor) -> Tensor:
    return h * torch.roll(h, 1, -1)


def neighbours(m: Trap, h: Tensor) -> Tensor:
    return F.avg_pool1d(h[:, None], 3, 1, 1)[:, 0]


def conv_over_channels(m: Trap, h: Tensor) -> Tensor:
    return F.conv1d(h[:, None], m.gain.view(2, 1, 3), padding=1).sum(1)


def odd_channels(m: Trap, h: Tensor) -> Tensor:
    return torch.cat([h[:, ::2], h[:, 1::2] * 2], -1)


def written_slice(m: Trap, h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, :3] = h[:, 3:]
    out[:, 3:] = h[:, :3] * 2
    return out


def written_twice(m: Trap, h: Tensor) -> Tensor:
    out = torch.zeros(2, *h.shape)
    out[0] = h
    out[1] = h.flip(-1)
    return out.prod(0)


def reshaped_oddly(m: Trap, h: Tensor) -> Tensor:
    return h.reshape(3, -1).softmax(-1).reshape(h.shape)


def transposed_square(m: Trap, h: Tensor) -> Tensor:
    outer = h[:, :, None] * h[:, None]
    return outer.triu().sum(-1)


def in_place_view(m: Trap, h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 0].mul_(3)
    return h


def masked_channels(m: Trap, h: Tensor) -> Tensor:
    return h * (torch.arange(6) < 3)


def sort_weights(m: Trap, h: Tensor) -> Tensor:
    return h.sort(-1).values * m.gain


def split_unevenly(m: Trap, h: Tensor) -> Tensor:
    a, b = h.split([2, 4], -1)
    c, d = h.split([3, 3], -1)
    return torch.cat([a * 2, b], -1) + torch.cat([torch.sin(c), d], -1)


def two_views(m: Trap, h: Tensor) -> Tensor:
    a = h.view(-1, 2, 3).softmax(1).reshape(-1, 6)
    return a + h.view(-1, 3, 2).softmax(1).reshape(-1, 6)


def interpolated(m: Trap, h: Tensor) -> Tensor:
    return F.interpolate(h[:, None], scale_factor=2, mode="linear")[:, 0, ::2]


def bool_mask(m: Trap, h: Tensor) -> Tensor:
    keep = torch.tensor([True, False, True, True, False, True])
    out = torch.zeros_like(h)
    out[:, keep] = h[:, keep]
    return out


def determinant(m: Trap, h: Tensor) -> Tensor:
    return h * torch.linalg.det(h[:, :, None] * h[:, None] + m.matrix)[:, None]


def inverse(m: Trap, h: Tensor) -> Tensor:
    return torch.linalg.solve(m.matrix, h.T).T


def strided(m: Trap, h: Tensor) -> Tensor:
    h = h.contiguous()
    return h + torch.as_strided(h, h.shape, (6, 1), 0).roll(2, -1)


def vmapped(m: Trap, h: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: row * m.ramp + row.sum())(h)


class Doubler(torch.autograd.Function):
    """A custom function that scales by position."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def custom_function(m: Trap, h: Tensor) -> Tensor:
    return Doubler.apply(h)


def python_max(m: Trap, h: Tensor) -> Tensor:
    best = max(range(6), key=lambda i: float(h[0, i]))
    return h * (best + 1)


def largest_channel(m: Trap, h: Tensor) -> Tensor:
    return h * (int(h.mean(0).argmax()) + 1)


def permuted(m: Trap, h: Tensor) -> Tensor:
    return h + h[:, [5, 4, 3, 2, 1, 0]]


def complex_phase(m: Trap, h: Tensor) -> Tensor:
    z = torch.view_as_complex(h.view(-1, 3, 2).contiguous())
    return torch.view_as_real(z * z).reshape(-1, 6)


def ema_buffer(m: Trap, h: Tensor) -> Tensor:
    return h * m.matrix[0]


def _x() -> tuple[Tensor, ...]:
    return (torch.randn(6, 4),)


def _trap(body: Body) -> Callable[[], nn.Module]:
    return lambda: Trap(body)


TRAPS: list[Any] = [
    (body.__name__, _trap(body), _x)
    for body in (
        if_first, if_sum, through_numpy, through_list, through_data, weight_data, weight_data_ramp,
        item_of_channel, topk_routing, topk_codes, argmax_embedding, vq_codebook, fourier,
        ramp_scale, number_list, arange_shift, fixed_matrix, cumulative, flipped, rolled,
        neighbours, conv_over_channels, odd_channels, written_slice, written_twice,
        reshaped_oddly, transposed_square, in_place_view, masked_channels, sort_weights,
        split_unevenly, two_views, interpolated, bool_mask, determinant, inverse, strided,
        vmapped, custom_function, python_max, permuted, complex_phase, ema_buffer,
        largest_channel, list_of_data, input_as_list, slice_by_data,
    )
]  # fmt: skip
