"""Buffers: those of the model's state move along, constants stay, and alike elements fix nothing.

Symmetries are applied to the whole state dict, loaded into the model, and compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from gmn_opt.graph import trace


class FrozenNorm(nn.Module):
    """A normalization whose numbers are all buffers, as detection models have it."""

    def __init__(self, width: int, alike: bool = False) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            drawn = torch.ones(width) if alike else torch.rand(width) + 0.5
            self.register_buffer(name, drawn)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()  # type: ignore[operator,union-attr]
        shift = self.bias - self.running_mean * scale  # type: ignore[operator]
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def frozen(alike: bool = False) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), FrozenNorm(6, alike), nn.ReLU(), nn.Conv2d(6, 2, 3))


class Net(nn.Module):
    """Two layers and a body."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], buffers: dict[str, Any]) -> None:
        super().__init__()
        self.a, self.b, self.gain = nn.Linear(4, 6), nn.Linear(6, 3), nn.Parameter(torch.rand(6))
        self.body = body
        for name, (tensor, persistent) in buffers.items():
            self.register_buffer(name, tensor, persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def ramp(m: Any, x: Tensor) -> Tensor:
    return m.b(torch.tanh(m.a(x)) * m.c)


def ramp_on_gain(m: Any, x: Tensor) -> Tensor:
    return m.b(torch.tanh(m.a(x)) * (m.c * m.gain))


def ramp_on_both(m: Any, x: Tensor) -> Tensor:
    return m.b(torch.tanh(m.a(x)) * (m.c * m.gain) + m.c)


def average(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    if m.training:
        m.c.lerp_(h.detach().mean(0), 0.1)
    return m.b(torch.tanh(h - m.c))


def order_of_average(m: Any, x: Tensor) -> Tensor:
    """What is kept is the running sum over neurons: their order matters."""
    h = m.a(x)
    if m.training:
        m.c.add_(h.detach().mean(0).cumsum(0))
    return m.b(torch.tanh(h) * m.c)


def written_elsewhere(m: Any, x: Tensor) -> Tensor:
    """Zeros now; the first neuron's value soon."""
    h = torch.tanh(m.a(x))
    if m.training:
        m.c[:1].add_(h.detach().mean(0)[:1])
    return m.b(h + m.c)


def one_kept(m: Any, x: Tensor) -> Tensor:
    """A mask that counts how many neurons are left by its cumulative sum."""
    return m.b(torch.tanh(m.a(x)) * (m.c.cumsum(0) * m.gain))


def key_bias(m: Any, x: Tensor) -> Tensor:
    bias = torch.cat([m.a.bias, m.c, m.a.bias])
    q, k, v = F.linear(x, torch.cat([m.a.weight] * 3), bias).chunk(3, -1)
    return m.b(torch.tanh(q * k + v))


def index_alike(m: Any, x: Tensor) -> Tensor:
    """The same neuron six times."""
    return m.b(torch.tanh(m.a(x))[:, m.c])


def grid(m: Any, x: Tensor) -> Tensor:
    """Coordinates that differ along the batch, and not along the neurons."""
    return m.b(torch.tanh(m.a(x)) * m.c)


def coordinates(m: Any, x: Tensor) -> Tensor:
    """A table of positions that a layer is applied to; the model's output is a sum over neurons."""
    return m.b(torch.tanh(m.a(x)) + m.c @ m.b.weight).sum(-1, keepdim=True)


class OwnNorm(nn.Module):
    """A batch norm of one's own, whose statistics a kernel writes without saying so."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6))
        self.register_buffer("mean", torch.zeros(6), persistent)
        self.register_buffer("spread", torch.ones(6), persistent)

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.mean, self.spread
        return F.batch_norm(x, mean, spread, self.scale, None, self.training)  # type: ignore[arg-type]


def own_norm(persistent: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), OwnNorm(persistent), nn.Tanh(), nn.Linear(6, 3))


class Blur(nn.Module):
    """The same blur for every channel, as antialiased networks have it."""

    def __init__(self, alike: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
        line = torch.tensor([1.0, 2.0, 1.0])
        kernel = (line[:, None] * line).expand(6, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel, persistent=False)
        if not alike:
            kernel[3] *= 2

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.conv2d(torch.relu(self.a(x)), self.kernel, groups=6))  # type: ignore[arg-type]


def pruned() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    prune.random_unstructured(net[2], "weight", 0.4)
    prune.ln_structured(net[0], "weight", 0.25, 2, 0)
    return net


def normed() -> nn.Module:
    first, last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)
    return nn.Sequential(spectral_norm(first), nn.ReLU(), spectral_norm(last))


def normed_anew() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    parametrizations.spectral_norm(net[0])
    return net


def net(body: Any, tensor: Tensor, persistent: bool = True) -> Callable[[], nn.Module]:
    return lambda: Net(body, {"c": (tensor.clone(), persistent)})


class Row(NamedTuple):
    """A model, its input's shape, the spaces by hand, and the buffers that move."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    spaces: int
    moves: frozenset[str] = frozenset()


IMAGE, ROWS = (2, 3, 6, 6), (5, 4)
STEPS = torch.linspace(0.5, 2, 6)
NORM = frozenset(f"1.{n}" for n in ("weight", "bias", "running_mean", "running_var"))
C = frozenset("c")
TABLE = [
    Row("frozen_norm", frozen, IMAGE, 1, NORM),
    Row("frozen_norm_alike", lambda: frozen(True), IMAGE, 1, NORM),
    Row("pruned", pruned, ROWS, 2, frozenset({"0.weight_mask", "2.weight_mask"})),
    Row("spectral_norm", normed, IMAGE, 1, frozenset({"0.weight_u", "2.weight_v"})),
    Row("spectral_parametrization", normed_anew, ROWS, 1,
        frozenset({"0.parametrizations.weight.0._u"})),
    Row("average", net(average, torch.zeros(6)), ROWS, 1, C),
    Row("average_begun", net(average, STEPS), ROWS, 1, C),
    Row("ramp_on_gain", net(ramp_on_gain, STEPS), ROWS, 1, C),
    Row("key_bias", net(key_bias, torch.zeros(6), False), ROWS, 1, C),
    Row("blur", Blur, IMAGE, 1, frozenset({"kernel"})),
    Row("grid", net(grid, torch.arange(5.0)[:, None].expand(5, 6).clone(), False), ROWS, 1, C),
    Row("own_norm", own_norm, ROWS, 1, frozenset({"1.mean", "1.spread"})),
    # The first neuron stays where it is.
    Row("written_elsewhere", net(written_elsewhere, torch.zeros(6)), ROWS, 1, C),
    # Not the neurons, but what reads the same one of them six times.
    Row("index_alike", net(index_alike, torch.zeros(6, dtype=torch.long)), ROWS, 1, C),
    # Constants: their order counts, or they cannot be moved.
    Row("ramp", net(ramp, STEPS), ROWS, 0),
    Row("ramp_on_both", net(ramp_on_both, STEPS), ROWS, 0),
    Row("ramp_not_saved", net(ramp_on_gain, STEPS, False), ROWS, 0),
    Row("average_not_saved", net(average, torch.zeros(6), False), ROWS, 0),
    Row("coordinates", net(coordinates, torch.tensor([[1.0, 2.0, 3.0]])), ROWS, 1),
    Row("own_norm_not_saved", lambda: own_norm(False), ROWS, 0),
    Row("order_of_average", net(order_of_average, torch.ones(6)), ROWS, 0),
    Row("one_kept", net(one_kept, torch.ones(6)), ROWS, 0),
    Row("blur_of_its_own", lambda: Blur(False), IMAGE, 0),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda r: r.name)
@pytest.mark.parametrize("verify", [True, False])
def test_what_moves_and_what_stays(row: Row, verify: bool) -> None:
    torch.manual_seed(0)
    model, x = row.make().double().eval(), torch.randn(row.shape, dtype=torch.float64)
    graph = trace(model, x, verify=verify)
    assert len(graph.spaces) == row.spaces, str(graph)
    free = {s.id for s in graph.spaces}
    moving = {b.tensor for b in graph.buffer_blocks if any(free & set(d) for d in b.dims)}
    # Where buffers are no part of the state dict, all their elements along the space are alike.
    assert moving == row.moves
    generator = torch.Generator().manual_seed(1)
    for training in (False, True):
        expected = _steps(model, model.state_dict(), x, training)
        for _ in range(3):
            moved = graph.permute(model.state_dict(), graph.random_symmetry(generator))
            torch.testing.assert_close(_steps(model, moved, x, training), expected)


def _steps(model: nn.Module, state: dict[str, Any], x: Tensor, training: bool) -> list[Tensor]:
    """Three outputs in a row, so that what the model keeps is read again."""
    kept = copy.deepcopy(model.state_dict())
    buffers = [(b, b.clone()) for b in model.buffers()]  # not all of them are in the state dict
    model.train(training).load_state_dict(state)
    with torch.no_grad():
        found = [model(x).clone() for _ in range(3)]
        for buffer, before in buffers:
            buffer.copy_(before)
    model.eval().load_state_dict(kept)
    return found


def test_values_that_are_loaded_later_move_too() -> None:
    """A graph is made once; the buffers that were alike then are not for ever."""
    model, x = frozen(True).double(), torch.randn(IMAGE, dtype=torch.float64)
    graph = trace(model, x)
    model.load_state_dict(frozen().double().state_dict())
    before = model(x)
    model.load_state_dict(graph.permute(model.state_dict(), graph.random_symmetry()))
    torch.testing.assert_close(model(x), before)
