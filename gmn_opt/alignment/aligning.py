"""``align``: the symmetry that brings one network nearest to another, and many to one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gmn_opt.alignment.activations import activation_pieces
from gmn_opt.alignment.assignment import check_scipy
from gmn_opt.alignment.checks import State, check_states
from gmn_opt.alignment.matching import Problem, anchored, ascend, begin, shuffle
from gmn_opt.alignment.pieces import Moves, Piece, weight_pieces
from gmn_opt.graph import ParameterGraph, Symmetry

Method = Literal["weights", "activations"]
MAX_ROUNDS = 50
EXACT = 1e-12


def align(
    graph: ParameterGraph,
    reference: State,
    other: State,
    method: Method = "weights",
    data: Iterable[Any] | None = None,
    *,
    model: nn.Module | None = None,
    restarts: int = 3,
    seed: int = 0,
) -> Symmetry:
    """The symmetry for which ``graph.permute(other, symmetry)`` is nearest to ``reference``.

    Every space of the graph is matched, those of single heads or groups included.

    Args:
        graph: Of the architecture of both networks, from :func:`gmn_opt.trace`.
        reference: State dict of the network that stays as it is.
        other: State dict of the network to be permuted.
        method: ``"weights"`` minimizes the distance of the parameters and needs no data.
            ``"activations"`` maximizes the correlation of the neurons' activations on ``data``;
            spaces that none of the model's layers shows (raw parameters, packed attention) are
            then matched by weights.
        data: Inputs to record activations on: a list of batches, each a tuple of arguments, a
            dict of keyword arguments, or a single argument.
        model: A module of this architecture, to compute the activations with; left as it is.
        restarts: Starting points; the best result is taken. The first compares axes of unknown
            order sorted, the second begins with the order that ``other`` has, further ones draw
            the order in which spaces are assigned, or the order of the neurons, in turn. A
            permuted copy is found at the first.
        seed: Of the restarts, and of the positions that are kept of large activations.

    Returns:
        The symmetry. ``symmetry.inverse()`` brings ``reference`` to ``other``.

    Raises:
        ValueError: States with missing names, other shapes, NaN or infinity; no data for
            ``"activations"``; an unknown method.
        ImportError: scipy is missing; the message has the command that installs it.

    Sources: Ainsworth, Hayase and Srinivasa 2023 (arXiv 2209.04836), sections 3.1 and 3.2.
    """
    if method not in ("weights", "activations"):
        raise ValueError(f"No method {method!r}; there are 'weights' and 'activations'.")
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, received {restarts}.")
    check_scipy()
    check_states(graph, (reference, other), ("reference", "other"))
    found: Moves = {}
    if method == "activations":
        if data is None or model is None:
            raise ValueError(
                "method='activations' needs the model and inputs to run it on: "
                "align(..., method='activations', model=model, data=[batch, ...])."
            )
        pieces = activation_pieces(graph, model, reference, other, data, seed=seed)
        seen = {f for p in pieces for f in p.legs}
        spaces = [s.id for s in graph.spaces if s.id in seen]
        found = best_of(graph, pieces, spaces, restarts, seed)
    rest = [s.id for s in graph.spaces if s.id not in found]
    if rest:
        placed = Symmetry(graph, found).apply(dict(other)) if found else other
        pieces = list(weight_pieces(graph, reference, placed))
        found |= best_of(graph, pieces, rest, restarts, seed)
    return Symmetry(graph, found)


def best_of(
    graph: ParameterGraph, pieces: Sequence[Piece], spaces: Sequence[int], restarts: int, seed: int
) -> Moves:
    """The best permutations of some spaces over several starts."""
    parents = {f: graph.factors[f].parents for f in spaces}
    sizes = {f.id: f.size for f in graph.factors}
    generator = torch.Generator().manual_seed(seed)
    best: Problem | None = None
    for attempt in range(restarts):
        problem = Problem(list(pieces), parents, sizes)
        if attempt == 0:
            begin(problem, anchored(problem))
        elif attempt > 1 and attempt % 2:
            shuffle(problem, generator)
        elif attempt > 1:
            roots = problem.roots
            begin(problem, [roots[i] for i in torch.randperm(len(roots), generator=generator)])
        ascend(problem, generator if attempt else None)
        if best is None or problem.trail[-1] > best.trail[-1]:
            best = problem
        if best.trail[-1] >= (1 - EXACT) * best.scale():
            break  # the same network: there is nothing nearer
    return best.found if best is not None else {}


def align_many(
    graph: ParameterGraph,
    states: Sequence[State],
    *,
    restarts: int = 1,
    seed: int = 0,
) -> list[Symmetry]:
    """One symmetry per network, such that all of them are near to their common mean.

    Each network in turn is aligned to the mean of the others until nothing changes (*MergeMany*,
    arXiv 2209.04836, appendix). The first stays in place.

    Raises:
        ValueError: Fewer than two networks, or states as :func:`align` refuses them.
        ImportError: scipy is missing.
    """
    if len(states) < 2:
        raise ValueError(f"align_many needs at least two networks, received {len(states)}.")
    check_states(graph, states, [f"network {i}" for i in range(len(states))])
    own = [_parameters(graph, state) for state in states]
    symmetries = [Symmetry.identity(graph)] + [
        align(graph, own[0], state, restarts=restarts, seed=seed) for state in own[1:]
    ]
    placed = [graph.permute(state, s) for state, s in zip(own, symmetries, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(MAX_ROUNDS):
        before = _spread(placed)
        for i in torch.randperm(len(states), generator=generator).tolist():
            others = [x for k, x in enumerate(placed) if k != i]
            center = {n: torch.stack([x[n] for x in others]).mean(0) for n in graph.shapes}
            symmetry = align(graph, center, own[i], restarts=restarts, seed=seed)
            moved = graph.permute(own[i], symmetry)
            if _distance(center, moved) < _distance(center, placed[i]):
                symmetries[i], placed[i] = symmetry, moved
        if not _spread(placed) < before * (1 - EXACT):
            break
    back = symmetries[0].inverse()
    return [back @ symmetry for symmetry in symmetries]


def _parameters(graph: ParameterGraph, state: State) -> dict[str, Tensor]:
    return {n: state[n].detach().cpu().to(torch.float64) for n in graph.shapes}


def _distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(float((a[n] - b[n]).square().sum()) for n in a)


def _spread(states: Sequence[Mapping[str, Tensor]]) -> float:
    """Summed squared distances from the mean."""
    center = {n: torch.stack([x[n] for x in states]).mean(0) for n in states[0]}
    return sum(_distance(center, x) for x in states)


def distance(graph: ParameterGraph, first: State, second: State) -> float:
    """Euclidean distance of two networks' parameters."""
    return _distance(_parameters(graph, first), _parameters(graph, second)) ** 0.5


__all__ = ["align", "align_many", "distance"]
