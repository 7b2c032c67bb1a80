"""What every model that hides from a trace is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WIDTH = 6


class Hidden(nn.Module):
    """Two layers, or three, and a body that does something with them."""

    ramp: Tensor

    def __init__(self, body: Callable[[Any, Tensor], Any], prepare: Any = None) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.register_buffer("ramp", torch.linspace(0.5, 2, WIDTH))
        self.cache: Any = None
        self.ready = False
        self.box: dict[str, Any] = {}
        self.items: list[Any] = []
        self.body = body
        if prepare is not None:
            prepare(self)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.b(torch.tanh(self.a(x))))


class Case(NamedTuple):
    """A row of the table."""

    name: str
    body: Callable[[Any, Tensor], Any]
    spaces: int
    read: Callable[[Any, Any], list[Tensor]] = lambda model, out: [out]
    prepare: Callable[[Any], None] | None = None
    train: bool = False
    batch: int = 5

    def make(self) -> tuple[Hidden, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Hidden(self.body, self.prepare).train(self.train)
            return model, torch.randn(self.batch, 4)
