"""Neurons as samples: what the weights at the fixed ends of a neuron have in common.

A hidden neuron behind the inputs has a weight for every input and every output, and these have an
order that nothing permutes: pixels are pixels in every network. Its row of such weights is one
vector, and the neurons of all training networks are samples of one distribution, whatever their
order. Its mean and covariance say what first layers look like (smooth, blind to corners); networks
are generated in units in which they are 0 and 1, so that white noise there is already made of
independent neurons of the right shape, and the flow is left with what neurons of one network know
of each other. Equivariant, since every neuron of a space is treated alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph

_FLOOR = 1e-4

#: Of one space: the tensors that hold it beside fixed axes only, and along which dim.
Rows = dict[str, int]
Named = Mapping[str, Tensor]


def rows_of(graph: ParameterGraph) -> list[Rows]:
    """Of every space that has any, tensors whose other axes are all fixed."""
    found = []
    for space in graph.spaces:
        rows: Rows = {}
        for block in graph.blocks:
            free = [
                (d, f)
                for d, factors in enumerate(block.dims)
                for f in factors
                if graph.factors[f].is_free
            ]
            if len(free) != 1 or free[0][1] != space.id or space.parents:
                continue
            dim = free[0][0]
            if block.dims[dim] == (space.id,) and block.shape == graph.shapes[block.tensor]:
                rows[block.tensor] = dim
        if rows:
            found.append(rows)
    return found


@dataclass(frozen=True)
class Neurons:
    """Means ``[q]`` and symmetric roots of covariances ``[q, q]`` of the neurons of every space."""

    means: Sequence[Tensor]
    roots: Sequence[Tensor]
    _inverses: list[Tensor] = field(default_factory=list, compare=False)

    @staticmethod
    def of(sets: Sequence[tuple[ParameterGraph, Named]]) -> Neurons:
        """Of training networks ``{name: [N, *shape]}`` per graph.

        Raises ValueError where no space has tensors of its own, or graphs differ in them.
        """
        listed = [rows_of(graph) for graph, _ in sets]
        if not listed[0] or any(rows != listed[0] for rows in listed):
            raise ValueError(
                "neurons=True takes the covariance of the weights between neurons and fixed axes "
                "(inputs, outputs, biases); these graphs have none, or not the same. Set "
                "neurons=False."
            )
        means, roots = [], []
        for rows in listed[0]:
            seen = torch.cat([_gather(named, rows).flatten(0, 1) for _, named in sets]).double()
            covariance = seen.T.cov(correction=0)
            values, vectors = torch.linalg.eigh(covariance)
            values = values.clamp_min(_FLOOR * float(values.mean()) + 1e-30)
            means.append(seen.mean(0).float())
            roots.append((vectors * values.sqrt() @ vectors.T).float())
        return Neurons(means, roots)

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a file."""
        means = {f"neurons.{i}.mean": t for i, t in enumerate(self.means)}
        return means | {f"neurons.{i}.root": t for i, t in enumerate(self.roots)}

    @staticmethod
    def read(tensors: Named) -> Neurons | None:
        """From :meth:`tensors`, among others; None where there are none."""
        count = sum(n.startswith("neurons.") and n.endswith(".mean") for n in tensors)
        means, roots = (
            [tensors[f"neurons.{i}.{what}"] for i in range(count)] for what in ("mean", "root")
        )
        return Neurons(means, roots) if count else None

    def inverses(self) -> list[Tensor]:
        """The inverse of every root."""
        if not self._inverses:
            self._inverses.extend(torch.linalg.inv(r.double()) for r in self.roots)
        return self._inverses

    def whiten(self, graph: ParameterGraph, named: Named) -> dict[str, Tensor]:
        """Networks ``{name: [..., *shape]}`` in units in which neurons are white."""
        out = dict(named)
        for rows, mean, inverse in zip(rows_of(graph), self.means, self.inverses(), strict=True):
            vectors = _gather(named, rows)
            out |= _scatter((vectors - mean.to(vectors)) @ inverse.to(vectors), named, rows)
        return out

    def color(self, graph: ParameterGraph, named: Named, shift: bool = True) -> dict[str, Tensor]:
        """The inverse of :meth:`whiten`; without ``shift``, of differences of networks."""
        out = dict(named)
        for rows, mean, root in zip(rows_of(graph), self.means, self.roots, strict=True):
            vectors = _gather(named, rows) @ root.to(next(iter(named.values())))
            out |= _scatter(vectors + mean.to(vectors) if shift else vectors, named, rows)
        return out


def _gather(named: Named, rows: Rows) -> Tensor:
    """``[B, n, q]``: the vector of every neuron."""
    return torch.cat([named[n].movedim(1 + d, 1).flatten(2) if named[n].dim() > 2
                      else named[n].unsqueeze(-1) for n, d in rows.items()], -1)  # fmt: skip


def _scatter(vectors: Tensor, like: Named, rows: Rows) -> dict[str, Tensor]:
    """The inverse of :func:`_gather`."""
    sizes = [like[n][0].numel() // like[n].shape[1 + d] for n, d in rows.items()]
    parts = vectors.split(sizes, -1)
    out = {}
    for (name, dim), part in zip(rows.items(), parts, strict=True):
        shape = like[name].movedim(1 + dim, 1).shape
        out[name] = part.reshape(shape).movedim(1, 1 + dim)
    return out


__all__ = ["Neurons", "rows_of"]
