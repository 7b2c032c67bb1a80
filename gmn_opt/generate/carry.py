"""What nodes hear of each other through the weights between them.

A message of a graph network is a nonlinear function of an edge and its ends, averaged: that a
neuron's sum is its inputs times its weights must be learned from it. Here the weights themselves
carry features along the edges and against them, as a forward and a backward pass do, once for each
direction. Linear in the weights and the same for all edges, so that permutations of neurons permute
what is heard.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked
from gmn_opt.metanet.execution import at_ends
from gmn_opt.metanet.incidence import incidence_of


def carried(graph: ParameterGraph, values: Tensor, said: Tensor) -> Tensor:
    """What arrives along edges and against them, ``[B, N, 2 r]``.

    Args:
        graph: Of the networks.
        values: ``[B, P]``, of order one.
        said: ``[B, N, r]`` of the nodes.

    Sums are divided by the root of how many there are, and averaged over blocks that meet.
    """
    layout, incidence = blocked(graph), incidence_of(graph, values)
    parts = values.split(layout.edge_counts, -1)
    along, against = [], []
    ends = at_ends(graph, torch.cat([said, said], -1))
    for part, (rows, columns) in zip(parts, ends, strict=True):
        d, e = rows.shape[-1], columns.shape[-1]
        weights = part.unflatten(-1, (d, e))
        along.append(weights @ columns.mT / e**0.5)
        against.append((rows @ weights).mT / d**0.5)
    return torch.cat(
        [
            incidence.from_destinations(torch.cat(along, -2)),
            incidence.from_sources(torch.cat(against, -2)),
        ],
        -1,
    )


__all__ = ["carried"]
