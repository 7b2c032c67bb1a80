"""Small networks whose whole group of symmetries can be listed, and the order of that group."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import factorial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph import models as m

Build = Callable[[], nn.Module]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.down(F.relu(self.up(x))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.weight, self.bias)), self.weight.t())


class Twice(nn.Module):
    """One square layer, applied twice: its rows and columns must move together."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.out = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        for _ in range(2):
            x = torch.tanh(self.again(x))
        return self.out(x)


class SmallConv(nn.Sequential):
    def __init__(self, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(1, 2 * groups, 2), nn.ReLU(),
            nn.Conv2d(2 * groups, 2 * groups, (1, 2), groups=groups),
        )  # fmt: skip
        self.head = nn.Linear(2 * groups, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self)[:3]:
            x = layer(x)
        return self.head(x.mean((2, 3)))


class Flattened(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(2, 3, 2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(9, 2)
        )  # fmt: skip


class Heads(nn.Module):
    """Attention with two heads of two dims; the softmax written out."""

    def __init__(self, width: int = 2, heads: int = 2, dims: int = 2) -> None:
        super().__init__()
        self.heads, self.dims = heads, dims
        self.q, self.k, self.v = (nn.Linear(width, heads * dims) for _ in range(3))
        self.o = nn.Linear(heads * dims, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, self.dims)).transpose(0, 1)
            for f in (self.q, self.k, self.v)
        )
        scores = torch.exp(q @ k.transpose(1, 2) / 2)
        mixed = scores / scores.sum(-1, keepdim=True) @ v
        return self.o(mixed.transpose(0, 1).flatten(1))


class FusedHeads(Heads):
    """The same by PyTorch's own attention."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, self.dims)).transpose(0, 1)[None]
            for f in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)[0]
        return self.o(mixed.transpose(0, 1).flatten(1))


class PackedHeads(nn.Module):
    """PyTorch's module, which has queries, keys and values in one tensor."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Encoder(nn.Sequential):
    """A transformer layer, whose norms are after its residual sums."""

    def __init__(self) -> None:
        layer = nn.TransformerEncoderLayer(2, 1, 2, batch_first=True)
        super().__init__(nn.Linear(1, 2), layer, nn.Linear(2, 1))


def normed(norm: nn.Module, width: int = 3) -> Build:
    """Two layers with a norm between them whose numbers are no longer 1 and 0."""

    def build() -> nn.Module:
        used = copy.deepcopy(norm)
        for t in (*used.parameters(), *used.buffers()):
            if t.is_floating_point():
                nn.init.uniform_(t, 0.5, 2.0)
        return nn.Sequential(nn.Linear(2, width), used, nn.Tanh(), nn.Linear(width, 1))

    return build


def pooled(pool: nn.Module, width: int) -> Build:
    """A convolution, a pool, and a linear layer on what it leaves of a 4x4 image."""
    return lambda: nn.Sequential(nn.Conv2d(1, 3, 2), pool, nn.Flatten(), nn.Linear(3 * width, 1))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale, self.b = nn.Linear(2, 3), nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.sin(self.scale * self.a(x)) + 0.5)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sigmoid(self.a(x)) * self.b(x) - 1.0)


#: Name, model, shape of one input, order of the group.
NETS: list[tuple[str, Build, tuple[int, ...], int]] = [
    ("mlp 2-3-2", lambda: m.mlp(2, 3, 2), (1, 2), factorial(3)),
    ("mlp 2-2-2-1", lambda: m.mlp(2, 2, 2, 1), (1, 2), 2 * 2),
    ("mlp 1-4-3-1", lambda: m.mlp(1, 4, 3, 1), (1, 1), factorial(4) * factorial(3)),
    ("linear", lambda: nn.Linear(3, 2), (1, 3), 1),
    ("residual mlp", Residual, (1, 2), factorial(3) * 2),
    ("tied autoencoder", Tied, (1, 2), factorial(3)),
    ("one layer twice", Twice, (1, 2), factorial(3)),
    ("conv net", SmallConv, (1, 1, 3, 3), 2 * 2),
    ("grouped conv net", lambda: SmallConv(2), (1, 1, 3, 3), 2 * 2**2 * 2**2),
    ("conv, flatten, linear", Flattened, (1, 2, 2), factorial(3)),
    ("attention heads", Heads, (2, 2), 2 * 2**2 * 2**2),
    ("scale", Scaled, (1, 2), factorial(3)),
    ("gated", Gated, (1, 2), factorial(3)),
    (
        "glu",
        lambda: nn.Sequential(nn.Linear(2, 6), nn.GLU(), nn.Linear(3, 2)),
        (1, 2),
        factorial(3),
    ),
    ("layer norm", normed(nn.LayerNorm(3)), (2, 2), factorial(3)),
    ("rms norm", normed(nn.RMSNorm(3, eps=1e-6)), (2, 2), factorial(3)),
    ("batch norm", normed(nn.BatchNorm1d(3)), (2, 2), factorial(3)),
    ("group norm", normed(nn.GroupNorm(2, 4), 4), (1, 2), 2 * 2**2),
    ("max pool", pooled(nn.MaxPool2d(2, 1), 4), (1, 1, 4, 4), factorial(3)),
    ("average pool", pooled(nn.AvgPool2d(2, 1, 1), 16), (1, 1, 4, 4), factorial(3)),
    ("adaptive max pool", pooled(nn.AdaptiveMaxPool2d(2), 4), (1, 1, 4, 4), factorial(3)),
    ("adaptive average", pooled(nn.AdaptiveAvgPool2d(2), 4), (1, 1, 4, 4), factorial(3)),
    ("fused attention", FusedHeads, (2, 2), 2 * 2**2 * 2**2),
    ("packed attention", lambda: PackedHeads(4, 2), (1, 2, 4), 2 * 2**2 * 2**2),
    ("encoder layer", Encoder, (1, 2, 1), 2 * 2 * 2 * 2),
    (
        "embedding",
        lambda: nn.Sequential(nn.Embedding(3, 3), nn.Tanh(), nn.Linear(3, 1)),
        (1, 2),
        factorial(3),
    ),
]
