"""Noise and data paired up to the symmetries of the graph.

White noise is as likely in any order of the neurons, so that it may be permuted to be near to the
network that it is to become: paths get shorter and cross less, and the marginals stay what they
are (Song et al. 2023 pair up to rotations and permutations of atoms for molecules; here it is the
symmetries of a parameter graph). This is the cheap form of :func:`gmn_opt.align`: one assignment
per space, in turn, all else held, for a batch of networks; spaces below others, and tensors that
hold a space twice, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gmn_opt.alignment.assignment import best_assignment, check_scipy
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked


def paired(graph: ParameterGraph, noise: Tensor, data: Tensor, sweeps: int = 1) -> Tensor:
    """Noise ``[B, P]``, each row permuted by a symmetry to be nearer to the same row of ``data``.

    Raises ImportError where scipy is missing.
    """
    check_scipy()
    layout = blocked(graph)
    moved, wanted = layout.unflatten(noise), layout.unflatten(data)
    for _ in range(sweeps):
        for space in graph.spaces:
            if not space.parents:
                moved = _assigned(graph, space.id, moved, wanted)
    return layout.flatten(moved)


def _assigned(
    graph: ParameterGraph, space: int, moved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``moved`` after the best permutation of one space in every network of a batch."""
    places = _places(graph, space)
    if places is None:
        return dict(moved)
    gain = sum(_rows(wanted[n], d) @ _rows(moved[n], d).mT for n, d in places.items())
    assert isinstance(gain, Tensor)
    order = torch.stack([best_assignment(g) for g in gain.detach().cpu().double()])
    out = dict(moved)
    for name, dim in places.items():
        t = out[name].movedim(dim + 1, 1)
        index = order.view(*order.shape, *[1] * (t.dim() - 2)).expand_as(t)
        out[name] = t.gather(1, index).movedim(1, dim + 1)
    return out


def _places(graph: ParameterGraph, space: int) -> dict[str, int] | None:
    """Along which dim tensors hold a space; None unless each does so once, by itself and whole."""
    found: dict[str, int] = {}
    for block in graph.blocks:
        dims = [d for d, factors in enumerate(block.dims) if space in factors]
        if not dims:
            continue
        alone = len(dims) == 1 and block.dims[dims[0]] == (space,)
        if not alone or block.tensor in found or block.shape != graph.shapes[block.tensor]:
            return None
        if any(graph.factors[f].parents for factors in block.dims for f in factors):
            return None
        found[block.tensor] = dims[0]
    return found or None


def _rows(tensor: Tensor, dim: int) -> Tensor:
    """``[B, *shape]`` as ``[B, shape[dim], rest]``."""
    return tensor.movedim(dim + 1, 1).flatten(2) if tensor.dim() > 2 else tensor.unsqueeze(-1)


__all__ = ["paired"]
