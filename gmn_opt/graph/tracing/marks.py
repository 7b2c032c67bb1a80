"""What a tensor of a traced pass carries along about where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gmn_opt.graph.tracing.attending import Context, Scores

Uses = frozenset[int]
NOBODY: Uses = frozenset()


class Mark(NamedTuple):
    """What a tensor carries along.

    ``made``: the products that it was made by, since the last one. ``raw``: it stems from the
    model's input; ``learned``: a product was involved. ``counts``: it numbers positions.
    ``attended``: heads and dims of an attention that it comes from. ``chosen``: the products whose
    scores chose these positions; ``weights``: those of which these are the scores. ``routed``:
    its rows were chosen. ``lookup``: how rows of a parameter were found.
    """

    made: Uses = NOBODY
    raw: bool = False
    learned: bool = False
    counts: bool = False
    nonlinear: str = ""
    attended: tuple[int, int] | None = None
    routed: bool = False
    chosen: Uses = NOBODY
    weights: Uses = NOBODY
    scores: tuple[Scores, ...] = ()
    contexts: tuple[Context, ...] = ()
    params: frozenset[int] = frozenset()
    lookup: str = ""


NOTHING = Mark()


def join(marks: Iterable[Mark]) -> Mark:
    """The mark of what is computed from several tensors."""
    found = [m for m in marks if m is not NOTHING]
    if len(found) < 2:
        return found[0] if found else NOTHING
    learned = [m for m in found if m.learned]
    attended = {m.attended for m in learned}
    kinds = {m.nonlinear for m in learned or found}
    return Mark(
        frozenset().union(*(m.made for m in found)),
        any(m.raw for m in found),
        bool(learned),
        any(m.counts for m in found),
        kinds.pop() if len(kinds) == 1 else "",
        attended.pop() if len(attended) == 1 else None,
        bool(learned) and all(m.routed for m in learned),
        frozenset().union(*(m.chosen for m in found)),
        frozenset().union(*(m.weights for m in found)),
        tuple(dict.fromkeys(s for m in found for s in m.scores)),
        tuple(dict.fromkeys(c for m in found for c in m.contexts)),
        frozenset().union(*(m.params for m in found)),
        next((m.lookup for m in found if m.lookup), ""),
    )


__all__ = ["NOBODY", "NOTHING", "Mark", "Uses", "join"]
