"""Models of dense layers."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class MLPBatchNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(),
            nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3),
        )  # fmt: skip


class MLPLayerNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3))


class MLPPReLU(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3), nn.PReLU())


class BilinearNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Bilinear(4, 5, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(a, b)))


class ResidualMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.up = nn.ModuleList([nn.Linear(6, 7) for _ in range(2)])
        self.down = nn.ModuleList([nn.Linear(7, 6) for _ in range(2)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.relu(up(x)))
        return self.head(x)


class DenseConcat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.b = nn.Linear(9, 6)
        self.c = nn.Linear(15, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.a(x))], -1)
        x = torch.cat([x, F.relu(self.b(x))], -1)
        return self.c(x)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(5, 7)
        self.out = nn.Linear(13, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(torch.cat([torch.tanh(self.a(x)), torch.sigmoid(self.b(y))], 1))


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 6)
        self.a = nn.Linear(6, 2)
        self.b = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.silu(self.trunk(x))
        return {"a": self.a(x), "b": self.b(x)}


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.weight, self.bias)), self.weight.t())


class SharedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 6)
        self.again = nn.Linear(6, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        for _ in range(3):
            x = torch.tanh(self.again(x))
        return self.out(x)


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 6), nn.Linear(6, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sin(3 * self.b(torch.sin(3 * self.a(x)))))


class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 12), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(-1, 6, 2).amax(-1))


class GLUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 12), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.glu(self.a(x)))


class SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class SwiGLUPacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class FiLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
        self.condition = nn.Linear(2, 7)
        self.film = nn.Linear(7, 10)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = self.film(torch.tanh(self.condition(z))).split(5, -1)
        x = self.b(torch.relu(self.a(x)))
        return self.out(torch.relu(x * (1 + scale) + shift))


class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
        self.rho = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.rho(self.phi(x).sum(1))


class SetLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.pool = nn.Linear(2, 6), nn.Linear(2, 6, bias=False)
        self.out = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.own(x) + self.pool(x.mean(1, keepdim=True))))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.tokens = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5))
        self.norm = nn.LayerNorm(6)
        self.channels = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm(x))
        return self.head(x.mean(1))


class EinsumHeads(nn.Module):
    """Heads that never mix: h may move, and d within each h."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(3, 4, 5))
        self.b = nn.Parameter(torch.randn(3, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("bi,hid->bhd", x, self.a))
        return torch.einsum("bhd,hdo->bo", hidden, self.b)


class MixedHeads(nn.Module):
    """Heads mixed by a matrix and added to themselves: the order of dims is one for all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(3, 4, 5))
        self.mix = nn.Parameter(torch.randn(3, 3))
        self.b = nn.Parameter(torch.randn(3, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("bi,hid->bhd", x, self.a))
        hidden = hidden + torch.tanh(self.mix @ hidden)
        return torch.einsum("bhd,hdo->bo", hidden, self.b)


class ReadForItsShape(nn.Module):
    """A single channel is selected, but only its shape is used."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        return self.down(hidden * hidden[..., -1].numel())


class DropoutNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.Tanh(),
            nn.AlphaDropout(), nn.Linear(5, 3),
        )  # fmt: skip


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.gamma = nn.Parameter(torch.randn(6))
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.down(F.gelu(self.up(F.rms_norm(x, (6,)))))
        return self.head((x + self.gamma * y) * self.temperature)


class Vmapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 6, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.vmap(self.net)(x)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 5), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.zeros(x.shape[0], 11, dtype=x.dtype)
        both[:, :6] = self.a(x)
        both[:, 6:] = self.b(x)
        both.relu_()
        both[:, :6].mul_(2)
        return self.c(both)


class FourierFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, 5))
        self.net = mlp(10, 6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        frequencies = self.frequencies
        assert isinstance(frequencies, Tensor)
        angle = x @ frequencies
        return self.net(torch.cat([angle.sin(), angle.cos()], -1))


class FourierOperator(nn.Module):
    """One layer of a Fourier neural operator in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.out = nn.Linear(2, 5), nn.Linear(5, 1)
        self.real = nn.Parameter(torch.randn(5, 5, 3))
        self.imag = nn.Parameter(torch.randn(5, 5, 3))
        self.skip = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        modes = torch.fft.rfft(x, dim=1)[:, :3]
        weight = torch.complex(self.real, self.imag)
        mixed = torch.einsum("bmi,iom->bmo", modes, weight)
        y = torch.fft.irfft(mixed, n=x.shape[1], dim=1)
        return self.out(F.gelu(y + self.skip(x)))
