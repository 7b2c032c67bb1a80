"""A user's own training problem, from the factory that the command line names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.cli.bench.training import Problem
from gmn_opt.cli.errors import fail
from gmn_opt.cli.locate import kind_of, locate

EXAMPLE = "gmn_opt.cli.bench.example:fashion_mlp"
_WANTED = "model, loss, batches, or model, loss, batches, test_batches"


@dataclass
class Given:
    """What a factory gave.

    Attributes:
        model: The network.
        loss: From the model and a batch to a scalar.
        batches: An iterable of batches, begun anew when it ends, or a function that gives one.
        test_batches: What the test loss is the mean over; None for no test loss.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    batches: Iterable[Any] | Callable[[], Any]
    test_batches: Iterable[Any] | None = None
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def stream(self) -> Iterator[Any]:
        """Batches without end."""
        if callable(self.batches):
            while True:
                yield self.batches()
        while True:
            empty = True
            for batch in self.batches:
                empty = False
                yield batch
            if empty:
                fail("the factory's batches are empty, or an iterator that ended before the run")

    def problem(self, judged: int) -> Problem:
        """To be trained; the first ``judged`` batches are the fixed ones."""
        stream = self.stream()
        fixed = list(itertools.islice(stream, judged))
        handle = self.model.register_forward_pre_hook(self._look, with_kwargs=True)
        self.mean_loss(fixed[:1])
        handle.remove()
        inputs, named = self.seen[0] if self.seen else ((), {})
        return Problem(self.model, self._loss, stream, lambda: self.mean_loss(fixed), inputs, named)

    def _look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.seen.append((args, kwargs))

    def _loss(self, model: nn.Module, batch: Any) -> Tensor:
        value = self.loss(model, batch)
        if not isinstance(value, Tensor) or value.dim():
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind_of(value)
            fail(f"the factory's loss must return a scalar tensor, received {what}")
        return value

    @torch.no_grad()
    def mean_loss(self, batches: Iterable[Any]) -> float:
        """Over batches, in evaluation mode; the model's mode is put back."""
        training = self.model.training
        self.model.eval()
        values = [float(self._loss(self.model, batch)) for batch in batches]
        self.model.train(training)
        return sum(values) / max(1, len(values))


def load(where: str) -> Callable[[int], Given]:
    """The factory behind ``package.module:factory`` or ``file.py:factory``, given a seed."""
    factory = locate(where, EXAMPLE)
    if not callable(factory):
        fail(f"{where} is {kind_of(factory)}, not a function that returns {_WANTED}")

    def make(seed: int) -> Given:
        torch.manual_seed(seed)
        try:
            found = factory()
        except TypeError as error:
            fail(f"{where} could not be called without arguments: {error}")
        return _checked(where, found)

    return make


def _checked(where: str, found: Any) -> Given:
    if not isinstance(found, tuple) or len(found) not in (3, 4):
        what = f"a tuple of {len(found)}" if isinstance(found, tuple) else kind_of(found)
        fail(f"{where} must return {_WANTED}; it gave {what}")
    given = Given(*found)
    if not isinstance(given.model, nn.Module):
        fail(f"{where}: the model is {kind_of(given.model)}, not a torch.nn.Module")
    if not callable(given.loss):
        fail(f"{where}: the loss is {kind_of(given.loss)}, not a function of model and batch")
    for name, value in (("batches", given.batches), ("test batches", given.test_batches or ())):
        if not isinstance(value, Iterable) and not (name == "batches" and callable(value)):
            fail(f"{where}: the {name} are {kind_of(value)}, which cannot be iterated over")
    return given
