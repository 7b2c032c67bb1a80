"""Averages of networks, after they were brought to the same order of neurons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.alignment.aligning import Method, align, align_many
from gmn_opt.alignment.checks import State, check_states, check_weights
from gmn_opt.alignment.renewal import renormalize
from gmn_opt.graph import ParameterGraph, Symmetry


def average(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Weighted means of all floating-point tensors, computed in float64; others of the first.

    Args:
        states: State dicts with the same names and shapes.
        weights: One per state, summing to 1; equal ones by default. May be negative.

    Raises:
        ValueError: No states, other names or shapes, or weights that do not fit.
    """
    if not states:
        raise ValueError("There is nothing to average: states is empty.")
    shares = check_weights(weights or [1 / len(states)] * len(states), len(states))
    out: dict[str, Tensor] = {}
    for name, first in states[0].items():
        found = [state.get(name) for state in states]
        if any(x is None or x.shape != first.shape for x in found):
            raise ValueError(f"The networks differ in {name!r}, so they have no average.")
        if not first.is_floating_point():
            out[name] = first.clone()
            continue
        total = torch.zeros(first.shape, dtype=torch.float64, device=first.device)
        for x, share in zip(found, shares, strict=True):
            assert x is not None
            if share:
                total += share * x.detach().to(total)
        out[name] = total.to(first.dtype)
    return out


def merge(
    graph: ParameterGraph,
    states: Sequence[State],
    weights: Sequence[float] | None = None,
    *,
    t: float | None = None,
    symmetries: Sequence[Symmetry] | None = None,
    method: Method = "weights",
    data: Iterable[Any] | None = None,
    model: nn.Module | None = None,
    restarts: int = 3,
    seed: int = 0,
) -> dict[str, Tensor]:
    """One network of several: aligned, averaged and, with ``model`` and ``data``, renormalized.

    The result has the neurons of the first network in their order.

    Args:
        graph: Of the architecture of all networks.
        states: Two or more state dicts. Two are aligned by :func:`align`, more by
            :func:`align_many`.
        weights: One per network, summing to 1; equal by default.
        t: For two networks in place of ``weights``: 0 is the first, 1 the second.
        symmetries: Known ones of all networks, as :func:`align_many` returns them; nothing is
            aligned anew.
        method: As in :func:`align`, for two networks.
        data: Batches of inputs, as in :func:`align`. Running statistics are renewed on them, since
            those of an average are not the average of those.
        model: A module of this architecture; left as it is.
        restarts: As in :func:`align`.
        seed: As in :func:`align`.

    Raises:
        ValueError: Fewer than two networks, states that do not fit the graph, weights that do not
            fit the states, ``t`` together with weights or with more than two networks.
        ImportError: scipy is missing, and symmetries are not given.
    """
    if len(states) < 2:
        raise ValueError(f"merge needs at least two networks, received {len(states)}.")
    if t is not None:
        if len(states) != 2 or weights is not None:
            raise ValueError("t is for two networks without weights; use weights=[...] instead.")
        weights = [1 - t, t]
    if weights is not None:
        check_weights(weights, len(states))
    check_states(graph, states, [f"network {i}" for i in range(len(states))])
    inputs = None if data is None else list(data)
    if symmetries is None:
        if len(states) == 2:
            found = align(
                graph, states[0], states[1], method, inputs,
                model=model, restarts=restarts, seed=seed,
            )  # fmt: skip
            symmetries = [Symmetry.identity(graph), found]
        elif method == "weights":
            symmetries = align_many(graph, states, seed=seed)
        else:
            raise ValueError("More than two networks are aligned by method='weights' only.")
    if len(symmetries) != len(states):
        raise ValueError(f"Received {len(symmetries)} symmetries for {len(states)} networks.")
    placed = [graph.permute(x, s) for x, s in zip(states, symmetries, strict=True)]
    merged = average(placed, weights)
    if model is not None and inputs is not None:
        merged = renormalize(model, merged, inputs)
    return merged


__all__ = ["average", "merge"]
