"""Batches of inputs in the forms that a user may give, and passing them through a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]


def batches(data: Iterable[Any]) -> Iterator[Call]:
    """Each batch as positional and keyword arguments.

    A batch is a tuple of arguments, a dict of keyword arguments, or a single argument.

    Raises:
        TypeError: A single tensor in place of a list of batches.
    """
    if isinstance(data, Tensor):
        raise TypeError(
            f"data is a tensor of shape {list(data.shape)}; pass a list of batches: [data]."
        )
    for batch in data:
        if isinstance(batch, dict):
            yield (), batch
        else:
            yield (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}


def run(model: nn.Module, calls: Iterable[Call]) -> None:
    """Call the model on every batch, without gradients, where its parameters are."""
    device = next(model.parameters()).device
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for args, kwargs in calls:
            model(
                *(a.to(device) if isinstance(a, Tensor) else a for a in args),
                **{k: a.to(device) if isinstance(a, Tensor) else a for k, a in kwargs.items()},
            )


__all__ = ["Call", "batches", "run"]
