"""Labels for modules that no pass has read, from siblings that were read."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmn_opt.graph import trace
from gmn_opt.graph.build.siblings import Adoption, exchanges
from tests.graph import models as m


class Idle(nn.Module):
    """A residual stream past some of its blocks: ``use`` says which of them run."""

    def __init__(self, block: Callable[[int], nn.Module], count: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(block(i) for i in range(count))
        self.use: tuple[int, ...] = (0, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for i in self.use:
            h = self.step(h, self.blocks[i])
        return self.head(h)

    def step(self, h: Tensor, block: nn.Module) -> Tensor:
        return h + block(h)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


def transformer(heads: int = 2) -> nn.Module:
    return nn.TransformerEncoderLayer(8, heads, 12, dropout=0, batch_first=True)


@pytest.mark.parametrize(
    ("block", "spaces"),
    [(lambda i: m.mlp(8, 5, 8), 1), (lambda i: Gated(), 1), (lambda i: transformer(), 4)],
)
def test_idle_blocks_are_labelled_like_their_siblings(
    block: Callable[[int], nn.Module], spaces: int
) -> None:
    torch.manual_seed(0)
    model, x = Idle(block), torch.randn(2, 5, 3)
    graph = trace(model, x)
    model.use = (0, 1, 2, 3)
    # What the siblings told is what a pass that reads everything finds.
    full = trace(model, x)
    assert len(graph.spaces) == len(full.spaces) == 1 + 4 * spaces
    assert graph.verify(model, x) < 1e-9
    assert {b.tensor: b.roles for b in graph.blocks} == {b.tensor: b.roles for b in full.blocks}
    assert graph.coverage() == full.coverage()
    free = [sorted((s.size, len(s.parents)) for s in g.spaces) for g in (graph, full)]
    assert free[0] == free[1]
    ends = [{(b.tensor, b.kind, g.groups[b.dst].name) for b in g.blocks} for g in (graph, full)]
    assert ends[0] == ends[1]


class Turning(nn.Module):
    """``turns`` is no plain setting, so it does not tell siblings apart."""

    def __init__(self, turns: list[int]) -> None:
        super().__init__()
        self.turns = turns
        self.up, self.down = nn.Linear(8, 5), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(x))
        return self.down(x.flip(self.turns) if self.turns else x)


def turning(odd: int | None, i: int) -> Turning:
    return Turning([-1] if i == odd else [])


def test_labels_of_siblings_that_cannot_be_checked_are_not_used() -> None:
    class Noisy(Turning):
        def forward(self, x: Tensor) -> Tensor:
            # Differs from call to call, whatever the seed: nothing can be compared.
            return super().forward(x) * (1 + 1e-3 * time.perf_counter())

    graph = trace(Idle(lambda i: Noisy([])), torch.randn(2, 5, 3))
    assert graph.fixed_reasons["blocks.1.up.weight"] == ("not read by the traced pass",) * 2
    assert len(graph.spaces) == 3


def test_what_siblings_tell_is_checked_in_their_places() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3)
    for odd in (1, 3, None):  # blocks 1 and 3 are idle
        model = Idle(partial(turning, odd))
        graph = trace(model, x)
        children = {n: id(b) for n, b in model.blocks.named_children()}
        model.use = (0, 1, 2, 3)
        assert graph.verify(model, x) < 1e-9
        assert len(graph.spaces) == 5 - (odd is not None)
        assert children == {n: id(b) for n, b in model.blocks.named_children()}
    for name, reasons in trace(Idle(partial(turning, 1)), x).fixed_reasons.items():
        assert ("numerical check" in reasons[0]) == (
            name in ("blocks.1.up.weight", "blocks.1.up.bias")
        )


def test_exchanges_find_every_idle_module_a_place() -> None:
    found = [Adoption(p, ("a", "b"), ()) for p in "cdefg"]
    rounds = exchanges(found)
    assert [list(r) for r in rounds] == [["c", "d"], ["e", "f"], ["g"]]
    assert all(len(set(r.values())) == len(r) for r in rounds)


def test_idle_layers_that_siblings_say_nothing_about_stay_fixed() -> None:
    class Chain(Idle):
        def step(self, h: Tensor, block: nn.Module) -> Tensor:
            return torch.tanh(block(h))

    def fixed(model: Idle) -> bool:
        graph = trace(model, torch.randn(2, 5, 3))
        reasons = {r for n, rs in graph.fixed_reasons.items() if "blocks.1" in n for r in rs}
        return reasons == {"not read by the traced pass"}

    assert fixed(Chain(lambda i: nn.Linear(8, 8))), "each layer has inputs of its own"
    assert fixed(Idle(lambda i: m.mlp(8, 5 + i % 2, 8))), "other shapes"
    assert fixed(Idle(lambda i: transformer(2 + 2 * (i % 2)))), "other numbers of heads"
    alone = Idle(lambda i: m.mlp(8, 5, 8))
    alone.use = (0,)
    assert fixed(alone), "a single sibling proves nothing"
