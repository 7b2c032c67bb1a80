"""Which permutation brings one network nearest to another: assignments, space by space.

Maximized is the inner product of both networks over all pieces, which for weights is the same as
minimizing their distance. With all spaces but one held, the best permutation of that one is a
linear assignment (Ainsworth et al. 2023, arXiv 2209.04836, section 3.2, *weight matching*). Beyond
that paper:

- *Spaces below others.* The dims of a head have an order of their own in each head. Heads are
  assigned by what each pair of them could reach at best, which is an assignment again (or, where
  inner spaces meet, a problem of the same form).
- *The start.* Coordinate ascent from an arbitrary order gets stuck. Here an axis whose order is
  not known yet is compared sorted: the value is what the best order of it could reach. For a
  permuted copy of a network with distinct weights that is exact, so the copy is found at once.
- *A space twice in one piece* (a recurrent layer, a shared one) makes the problem quadratic. Its
  linear part proposes a permutation, which is taken, whole or cycle by cycle, only if the
  objective rises.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from gmn_opt.alignment.assignment import best_assignment
from gmn_opt.alignment.pieces import Moves, Parents, Piece, moved

EPS = 1e-12
MAX_SWEEPS = 100
MAX_CYCLES = 64


@dataclass
class Problem:
    """Pieces, the spaces that may be permuted, and what each of them depends on.

    Attributes:
        pieces: What is compared. ``other`` moves as the solution proceeds.
        parents: Of each space, the factors that its permutations depend on, outermost first.
        sizes: Of each space and of each parent.
        found: The permutations so far, relative to where ``other`` began.
        trail: The objective after the start and after every step that was taken.
    """

    pieces: list[Piece]
    parents: Parents
    sizes: dict[int, int]
    found: Moves = field(default_factory=dict)
    trail: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        kept = {*self.parents, *(p for above in self.parents.values() for p in above)}
        self.pieces = [p.folded(kept) for p in self.pieces if kept.intersection(p.legs)]
        for f, above in self.parents.items():
            if f not in self.found:
                shape = [self.sizes[p] for p in (*above, f)]
                self.found[f] = torch.arange(self.sizes[f]).expand(shape)
        self.inner = _owned(self.parents)

    @property
    def roots(self) -> list[int]:
        """What is assigned in one go: spaces without parents, and parents that stay in place."""
        return list(self.inner)

    def value(self) -> float:
        """The objective: the inner product over all pieces."""
        return sum(p.product() for p in self.pieces)

    def scale(self) -> float:
        """The largest value that the objective could have."""
        return sum(float(p.reference.norm() * p.other.norm()) for p in self.pieces) or 1.0

    def apply(self, moves: Moves) -> None:
        """Permute the second network further."""
        self.pieces = self.moved(moves)
        for f, above in self.parents.items():
            legs = (*above, f)
            self.found[f] = moved(
                self.found[f], legs, (0,) * len(legs), _within(moves, legs), self.parents
            )

    def moved(self, moves: Moves) -> list[Piece]:
        """The pieces after a permutation of the second network."""
        return [
            p.with_other(moved(p.other, p.legs, p.dims, _within(moves, p.legs), self.parents))
            for p in self.pieces
        ]


def _within(moves: Moves, legs: Collection[int]) -> Moves:
    return {f: m for f, m in moves.items() if f in legs}


def _owned(parents: Parents) -> dict[int, list[int]]:
    """Each root with the spaces that are assigned along with it."""
    outer = [f for f, above in parents.items() if not above]
    held = [p for above in parents.values() for p in above if p not in parents]
    inner: dict[int, list[int]] = {f: [] for f in dict.fromkeys((*outer, *held))}
    for f, above in parents.items():
        owner = next((p for p in above if p in inner), None)
        if owner is not None:
            inner[owner].append(f)
    return inner


# ---------------------------------------------------------------------- one assignment


def proposal(problem: Problem, root: int, loose: Collection[int] = ()) -> Moves:
    """The best permutation of a root and of what is below it, all else held.

    ``loose`` are the spaces whose order is not known yet.
    """
    inner = problem.inner[root]
    elsewhere = set(loose) - {root, *inner}
    pieces = [p.sorted_along(elsewhere) for p in problem.pieces if root in p.legs]
    size = problem.sizes[root]
    free = root in problem.parents
    gain = torch.zeros(size, size, dtype=torch.float64)
    coupled: list[tuple[Piece, int]] = []
    for piece in pieces:
        for leg, f in enumerate(piece.legs):
            if f != root:
                continue
            below = [
                k for k, g in enumerate(piece.legs) if g in inner and piece.nearest(k, root) == leg
            ]
            if below:
                coupled.append((piece, leg))
            else:
                a, b = piece.along(leg)
                gain += a @ b.T
    if not inner:
        return {root: best_assignment(gain)}
    values, orders = _inner_optima(problem, root, coupled, free)
    gain += values
    chosen = best_assignment(gain) if free else torch.arange(size)
    moves: Moves = {root: chosen} if free else {}
    for f in inner:
        above = problem.parents[f]
        rows = torch.stack([orders[i, int(j)][f] for i, j in enumerate(chosen)])
        # the rows stand in the order (root, other parents, own)
        moves[f] = rows.movedim(0, above.index(root))
    return moves


def _inner_optima(
    problem: Problem, root: int, coupled: list[tuple[Piece, int]], free: bool
) -> tuple[Tensor, dict[tuple[int, int], Moves]]:
    """What each pair of indices of a root could reach, ``[n, n]``, and by which inner orders."""
    size, inner = problem.sizes[root], problem.inner[root]
    values = torch.zeros(size, size, dtype=torch.float64)
    orders: dict[tuple[int, int], Moves] = {}
    below = {f: tuple(p for p in problem.parents[f] if p != root) for f in inner}
    gains = _separate(problem, root, coupled) if not any(below.values()) else None
    for i in range(size):
        for j in range(size) if free else (i,):
            if gains is not None:
                found = {f: best_assignment(gains[f][i, :, j]) for f in inner}
                values[i, j] = sum(
                    float(gains[f][i, :, j].gather(1, p[:, None]).sum()) for f, p in found.items()
                )
                orders[i, j] = found
            else:
                pieces = [p.at(leg, i, j, inner) for p, leg in coupled]
                solved = solve(Problem(pieces, below, problem.sizes))
                values[i, j], orders[i, j] = solved.value(), solved.found
    return values, orders


def _separate(
    problem: Problem, root: int, coupled: list[tuple[Piece, int]]
) -> dict[int, Tensor] | None:
    """Per inner space the gains ``[n, size, n, size]`` of all pairs; None where two of them meet.

    This is the common case: the dims of heads, each seen by weights of its own.
    """
    inner, n = problem.inner[root], problem.sizes[root]
    gains = {
        f: torch.zeros(n, problem.sizes[f], n, problem.sizes[f], dtype=torch.float64) for f in inner
    }
    for piece, leg in coupled:
        own = [k for k, f in enumerate(piece.legs) if f in inner and piece.nearest(k, root) == leg]
        if len(own) != 1:
            return None
        f = piece.legs[own[0]]
        sides = [
            x.movedim((leg, own[0]), (0, 1)).flatten(2).flatten(0, 1)
            for x in (piece.reference, piece.other)
        ]
        gains[f] += (sides[0] @ sides[1].T).reshape(gains[f].shape)
    return gains


# ---------------------------------------------------------------------- the whole solution


def begin(problem: Problem, order: Iterable[int]) -> None:
    """Assign root after root in this order, axes that are still to come compared sorted."""
    loose = set(problem.parents)
    for root in order:
        problem.apply(proposal(problem, root, loose))
        loose -= {root, *problem.inner[root]}


def ascend(problem: Problem, generator: torch.Generator | None = None) -> None:
    """Coordinate ascent until no root's proposal raises the objective any more."""
    tolerance = EPS * problem.scale()
    value = problem.value()
    problem.trail.append(value)
    roots = problem.roots
    stale = 0
    for _ in range(MAX_SWEEPS):
        order = torch.randperm(len(roots), generator=generator) if generator else range(len(roots))
        for position in order:
            root = roots[int(position)]
            moves = proposal(problem, root)
            rose = False
            for part in (moves, *_cycles(problem, root, moves)):
                after = sum(p.product() for p in problem.moved(part))
                if after > value + tolerance:
                    problem.apply(part)
                    value, rose = after, True
                    problem.trail.append(value)
                    break
            stale = 0 if rose else stale + 1
            if stale >= len(roots):
                return


def _cycles(problem: Problem, root: int, moves: Moves) -> Iterator[Moves]:
    """The cycles of a proposal for a space that stands twice in some piece, one by one."""
    if problem.inner[root] or not any(p.legs.count(root) > 1 for p in problem.pieces):
        return
    left = {i: j for i, j in enumerate(moves[root].tolist()) if i != j}
    for _ in range(MAX_CYCLES):
        if not left:
            return
        alone = torch.arange(problem.sizes[root])
        i = next(iter(left))
        while i in left:
            alone[i] = left.pop(i)
            i = int(alone[i])
        yield {root: alone}


def anchored(problem: Problem) -> list[int]:
    """The roots, those first whose weights depend least on orders that are not known yet."""
    left = set(problem.parents)
    order: list[int] = []
    while len(order) < len(problem.inner):
        rest = [r for r in problem.roots if r not in order]
        best = max(rest, key=lambda r: _known(problem, r, left - {r, *problem.inner[r]}))
        order.append(best)
        left -= {best, *problem.inner[best]}
    return order


def _known(problem: Problem, root: int, loose: set[int]) -> float:
    """Numbers that tell the indices of a root apart without any unknown order."""
    pieces = [p for p in problem.pieces if root in p.legs and not loose.intersection(p.legs)]
    return sum(p.reference.numel() for p in pieces) / problem.sizes[root]


def shuffle(problem: Problem, generator: torch.Generator) -> None:
    """Bring the second network into a random order."""
    moves: Moves = {}
    for f, above in problem.parents.items():
        lead = [problem.sizes[p] for p in above]
        size = problem.sizes[f]
        rows = [torch.randperm(size, generator=generator) for _ in range(prod(lead))]
        moves[f] = torch.stack(rows).reshape(*lead, size)
    problem.apply(moves)


def solve(problem: Problem) -> Problem:
    """One start and the ascent from it, in place."""
    begin(problem, anchored(problem))
    ascend(problem)
    return problem


__all__ = ["Problem", "anchored", "ascend", "begin", "proposal", "shuffle", "solve"]
