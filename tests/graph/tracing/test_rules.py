"""Operators that few models use: the spaces by hand, and that they change nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmn_opt.graph import trace

Body = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Some layers and a body."""

    def __init__(self, body: Body, **layers: nn.Module) -> None:
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def windows(m: Any, x: Tensor) -> Tensor:
    """Attention within blocks, as in HaloNet, reads overlapping windows by ``Tensor.unfold``."""
    h = torch.relu(m.a(x))
    parts = h.unfold(2, 3, 1).unfold(3, 3, 1).amax((-1, -2))
    return m.b(parts)


def bag(m: Any, x: Tensor) -> Tensor:
    return m.b(torch.tanh(m.a(x)))


def renormed(m: Any, x: Tensor) -> Tensor:
    return m.b(torch.tanh(m.a(x)).mean(1))


def weight_decomposed(m: Any, x: Tensor) -> Tensor:
    """DoRA: the low-rank update of a weight is computed from an identity matrix."""
    base = m.a.weight
    update = m.up(m.down(torch.eye(base.shape[1], dtype=base.dtype))).T
    whole = base + 0.5 * update
    norm = whole.norm(dim=1)
    h = F.linear(x, base, m.a.bias) + 0.5 * m.up(m.down(x))
    return m.b(torch.tanh(h * (m.scale.weight[0] / norm)))


def no_key_bias(m: Any, x: Tensor) -> Tensor:
    """SwinV2: the bias of the keys is set to zero in a copy."""
    bias = m.qkv.bias.clone()
    bias[6:12].zero_()
    q, k, v = F.linear(x, m.qkv.weight, bias).reshape(*x.shape[:2], 3, 2, 3).permute(2, 0, 3, 1, 4)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return m.b(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def vectors(m: Any, x: Tensor) -> Tensor:
    """Rotations by a table: windows of windows along the neurons are no windows."""
    return m.b(torch.tanh(m.a(x)).unfold(-1, 2, 2).prod(-1))


IDS = torch.randint(9, (4, 5), generator=torch.Generator().manual_seed(0))
ROWS: list[tuple[str, Callable[[], nn.Module], Callable[[], Tensor], int]] = [
    ("windows", lambda: Net(windows, a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(6, 2, 1)),
     lambda: torch.randn(2, 3, 8, 8), 1),
    *[(f"bag_{mode}", lambda mode=mode: Net(bag, a=nn.EmbeddingBag(9, 6, mode=mode),
                                            b=nn.Linear(6, 2)), lambda: IDS, 1)
      for mode in ("sum", "mean", "max")],
    ("renormed", lambda: Net(renormed, a=nn.Embedding(9, 6, max_norm=1.0), b=nn.Linear(6, 2)),
     lambda: IDS, 1),
    # Hidden neurons, and the rank of the update.
    ("weight_decomposed", lambda: Net(
        weight_decomposed, a=nn.Linear(4, 6), down=nn.Linear(4, 2, bias=False),
        up=nn.Linear(2, 6, bias=False), scale=nn.Linear(6, 1), b=nn.Linear(6, 2)),
     lambda: torch.randn(3, 4), 2),
    # Heads, dims of queries and keys, dims of values.
    ("no_key_bias", lambda: Net(no_key_bias, qkv=nn.Linear(4, 18), b=nn.Linear(6, 2)),
     lambda: torch.randn(2, 5, 4), 3),
    ("windows_of_neurons", lambda: Net(vectors, a=nn.Linear(4, 6), b=nn.Linear(3, 2)),
     lambda: torch.randn(3, 4), 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "inputs", "spaces"), ROWS, ids=[r[0] for r in ROWS])
def test_spaces_by_hand(name: str, make: Any, inputs: Any, spaces: int) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), inputs()
    graph = trace(model, x, verify=False)
    assert len(graph.spaces) == spaces, str(graph)
    assert graph.verify(model, x) < 1e-9


def sampled(
    x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *numbers: Any
) -> Tensor:
    """A deformable convolution of stride one and padding one with a 3x3 kernel, by its definition.

    It stands in for torchvision's operator, which is not installed everywhere.
    """
    groups, offset_groups, use_mask = numbers[-3:]
    n, _, height, width = x.shape
    shifts = offset.view(n, offset_groups, 9, 2, height, width)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    parts = []
    for g, part in enumerate(x.chunk(offset_groups, 1)):
        taps = []
        for k in range(9):
            y = rows + k // 3 - 1 + shifts[:, g, k, 0]
            z = columns + k % 3 - 1 + shifts[:, g, k, 1]
            grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
            tap = F.grid_sample(part, grid, align_corners=True)
            taps.append(tap * mask[:, 9 * g + k, None] if use_mask else tap)
        parts.append(torch.stack(taps, 2))
    columns_ = torch.cat(parts, 1).view(n, groups, -1, height * width)
    kernel = weight.view(groups, weight.shape[0] // groups, -1)
    made = torch.einsum("ngis,goi->ngos", columns_, kernel)
    return made.reshape(n, -1, height, width) + bias[:, None, None]


@cache
def deform() -> tuple[Any, Any]:
    """An operator of torchvision's name and signature, and the library that keeps it alive."""
    library = torch.library.Library("gmn_opt_tests", "DEF")
    library.define(
        "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
        "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, "
        "SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor"
    )
    library.impl("deform_conv2d", sampled, "CPU")
    return torch.ops.gmn_opt_tests.deform_conv2d, library


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("groups", "offset_groups", "spaces"), [(1, 1, 2), (1, 2, 2), (2, 1, 3)])
def test_deformable_convolution(groups: int, offset_groups: int, spaces: int, masked: bool) -> None:
    """Channels before and behind it; where there are groups of these, the groups too.

    Channels that are shifted alike may change places, but not with those that are not.
    """

    def body(m: Any, x: Tensor) -> Tensor:
        h, shift = m.a(x), m.shifts(x)
        mask = m.mask(x).sigmoid() if masked else torch.zeros(len(x), 1)
        sizes = (1, 1, 1, 1, 1, 1, groups, offset_groups, masked)
        found: Tensor = deform()[0](h, m.b.weight, shift, mask, m.b.bias, *sizes)
        return m.c(found.mean((2, 3)))

    layers: dict[str, nn.Module] = {
        "a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 4, 3, groups=groups), "c": nn.Linear(4, 2),
        "shifts": nn.Conv2d(3, 18 * offset_groups, 3, padding=1),
        "mask": nn.Conv2d(3, 9 * offset_groups, 3, padding=1),
    }  # fmt: skip
    if not masked:
        del layers["mask"]
    torch.manual_seed(0)
    model, x = Net(body, **layers), torch.randn(2, 3, 5, 5)
    graph = trace(model, x, verify=False)
    assert len(graph.spaces) == spaces, str(graph)
    assert graph.verify(model, x) < 1e-9
