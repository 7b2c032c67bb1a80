"""Are generated networks new? Distances to training networks, shared errors, nearest images.

Most generators of weights memorize or interpolate their training networks, which accuracy does not
show (Zeng et al. 2026). Distances between networks mean something only after alignment: a permuted
copy is as far away as any other network. So each generated network is compared with every training
network *after* both are aligned, beside the same distances among training networks.

To align all pairs of thousands of networks takes too long. Candidates are found by a fingerprint
that permutations leave as it is, the sorted values of every tensor, and only these are aligned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmn_opt.alignment import align
from gmn_opt.generate.pairing import paired
from gmn_opt.generate.training_set import Networks, training_set
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked

_COPY = 0.1


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        nearest: ``[n]`` distance of each generated network to its nearest training network.
        which: ``[n]`` int64, the index of that network.
        among: ``[m]`` distance of training networks to their nearest other one.
        pairs: ``[k]`` distances of random pairs of training networks.
    """

    nearest: Tensor
    which: Tensor
    among: Tensor
    pairs: Tensor

    @property
    def novelty(self) -> float:
        """Median nearest distance by the median distance of pairs of training networks.

        0 for copies, 1 for networks that are as far from the training networks as those from each
        other. NaN where the training networks are all the same.
        """
        return _ratio(self.nearest, self.pairs)

    @property
    def copies(self) -> float:
        """Share of generated networks much nearer to one than training networks to each other."""
        return float((self.nearest < _COPY * self.pairs.median()).float().mean())

    def summary(self) -> dict[str, Any]:
        """Plain values, for JSON; None for what cannot be said."""
        return {
            "nearest_median": float(self.nearest.median()),
            "nearest_smallest": float(self.nearest.min()),
            "training_nearest_median": float(self.among.median()),
            "training_pairs_median": float(self.pairs.median()),
            "novelty": _plain(self.novelty),
            "nearest_by_training_nearest": _plain(_ratio(self.nearest, self.among)),
            "copies": self.copies,
        }

    def text(self) -> str:
        """In words."""
        s = self.summary()
        return (
            f"Distance to the nearest training network: median {s['nearest_median']:.3g}, smallest "
            f"{s['nearest_smallest']:.3g}. Training networks to their nearest: median "
            f"{s['training_nearest_median']:.3g}; to each other: {s['training_pairs_median']:.3g}. "
            f"Ratio to the latter {self.novelty:.2f}; copies {100 * s['copies']:.0f} %."
        )


def _ratio(first: Tensor, second: Tensor) -> float:
    """Of the medians; NaN where the second is zero."""
    below = float(second.median())
    return float(first.median()) / below if below else math.nan


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """``[n, m]``; those of near ones are not lost in rounding, as by products they would be."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def audit(
    generated: Networks,
    training: Networks,
    graph: ParameterGraph,
    *,
    shared_order: bool = False,
    candidates: int = 8,
    exact: bool = False,
    seed: int = 0,
) -> Audit:
    """Compare generated networks with those that a generator was fitted to.

    Args:
        generated, training: Networks of ``graph``.
        graph: Their parameter graph.
        shared_order: Whether all have their neurons in one order: then there is nothing to align,
            and all pairs are compared.
        candidates: Otherwise, training networks that are aligned with each; the nearest by sorted
            values. These find copies; an average of two networks has other values than both, and
            is seen for what it is only where all networks are candidates.
        exact: Align by :func:`gmn_opt.align` instead of one assignment per space.
        seed: Of the pairs of training networks.

    Raises ValueError for networks that do not fit the graph, and ImportError where scipy is
    missing.
    """
    new, old = training_set(generated, graph), training_set(training, graph)
    generator = torch.Generator().manual_seed(seed)
    if shared_order:
        apart = _distances(new, old)
        nearest, which = apart.min(1)
        some = torch.randperm(len(old), generator=generator)[:1000]
        within = _distances(old[some], old)
        within[torch.arange(len(some)), some] = torch.inf
        other = torch.randint(1, len(old), (len(some),), generator=generator)
        pairs = (old[some] - old[(some + other) % len(old)]).norm(dim=1)
        return Audit(nearest, which, within.min(1).values, pairs)
    known = _Aligned(graph, old, candidates, exact)
    nearest, which = known.nearest(new)
    some = torch.randperm(len(old), generator=generator)[: max(len(new), 2)]
    among, _ = known.nearest(old[some], some)
    other = (some + torch.randint(1, len(old), (len(some),), generator=generator)) % len(old)
    pairs = torch.stack([known.distance(old[i], old[j]) for i, j in zip(some, other, strict=True)])
    return Audit(nearest, which, among, pairs)


class _Aligned:
    """Distances to training networks ``[M, P]`` after alignment."""

    def __init__(self, graph: ParameterGraph, old: Tensor, candidates: int, exact: bool) -> None:
        self.graph, self.old, self.exact = graph, old, exact
        self.candidates = min(candidates, len(old) - 1)
        self.prints = self._fingerprint(old)

    def _fingerprint(self, flat: Tensor) -> Tensor:
        parts = flat.split(blocked(self.graph).edge_counts, 1)
        return torch.cat([p.sort(1).values for p in parts], 1)

    def nearest(self, new: Tensor, left_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distance to the nearest one and its index; ``left_out`` [n] may not be it."""
        apart = _distances(self._fingerprint(new), self.prints)
        if left_out is not None:
            apart[torch.arange(len(new)), left_out] = torch.inf
        chosen = apart.topk(self.candidates, largest=False).indices
        found = torch.stack(
            [self.distances(x, self.old[row]) for x, row in zip(new, chosen, strict=True)]
        )
        values, at = found.min(1)
        return values, chosen.gather(1, at.unsqueeze(1)).squeeze(1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Of two networks ``[P]``, aligned."""
        return self.distances(a, b.unsqueeze(0))[0]

    def distances(self, a: Tensor, others: Tensor) -> Tensor:
        """Of a network ``[P]`` to others ``[k, P]``, aligned: ``[k]``."""
        if not self.exact:
            moved_flat = paired(self.graph, others, a.expand_as(others), sweeps=3)
            return (moved_flat - a).norm(dim=1)
        layout = blocked(self.graph)
        first, found = layout.unflatten(a), []
        for other in others:
            second = layout.unflatten(other)
            moved = self.graph.permute(second, align(self.graph, first, second, restarts=1))
            found.append((layout.flatten(moved) - a).norm())
        return torch.stack(found)


def shared_errors(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union of wrong predictions, pairwise ``[n, m]``.

    Args:
        first: Predicted classes ``[n, examples]``.
        second: ``[m, examples]``.
        labels: ``[examples]``.

    Two networks without errors have 0. Raises ValueError for other shapes.
    """
    if first.shape[1:] != labels.shape or second.shape[1:] != labels.shape:
        raise ValueError(
            f"Expected predictions [n, {len(labels)}] of both, received {list(first.shape)} and "
            f"{list(second.shape)}."
        )
    a, b = (first != labels).float(), (second != labels).float()
    both = a @ b.mT
    either = a.sum(1, keepdim=True) + b.sum(1) - both
    return both / either.clamp_min(1)


def nearest_images(images: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean squared distance of images ``[n, ...]`` to the nearest of ``[m, ...]``, and which.

    Raises ValueError for images of other sizes.
    """
    if images.shape[1:] != known.shape[1:]:
        raise ValueError(
            f"Images of {list(images.shape[1:])} cannot be compared with images of "
            f"{list(known.shape[1:])}."
        )
    size = images[0].numel()
    values, which = _distances(images.flatten(1).float(), known.flatten(1).float()).min(1)
    return values / size**0.5, which


__all__ = ["Audit", "audit", "nearest_images", "shared_errors"]
