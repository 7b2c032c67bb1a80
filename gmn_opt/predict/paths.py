"""What a network does from end to end, as far as its weights alone say it.

Two networks that learned one task have neurons in common with nobody, but the same inputs and
outputs. The *through map* is the sum, over all paths from an input to an output, of the products
of the weights on the way: the linear part of the network, with every activation function left out
and parallel edges (kernel positions) added up. It does not change when neurons are permuted, and
good solutions of a task resemble each other in it. *Coherence* says how much of the product of the
weights into a layer and out of it is left after the neurons in between have been summed over: in
untrained networks they are strangers to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gmn_opt.metanet import blocked
from gmn_opt.metanet.features import depths
from gmn_opt.metanet.kept import kept
from gmn_opt.predict.features import biases, edge_factors

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph
    from gmn_opt.metanet.layout import Endpoint

_TINY = 1e-6
#: Through maps of networks with more outputs, or more elements, are not made.
_OUTPUTS, _ELEMENTS = 64, 65_536
#: Layers with more neurons are left out of the coherence.
_NEURONS = 1024
_EACH = 4

COHERENCE = 3 * _EACH


class Ends(NamedTuple):
    """Numbers of input and output neurons."""

    inputs: int
    outputs: int


class _Plan(NamedTuple):
    """The groups at both ends, and the order in which signals run back from the outputs."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    order: tuple[int, ...]


def ends_of(graph: ParameterGraph) -> Ends | None:
    """Of the through map, which networks with equal ends can be compared by; None without one.

    There is none where inputs or outputs have no fixed order, nothing leads from the ones to the
    others, or the map would be large.
    """
    plan = _plan(graph)
    sizes = blocked(graph).group_sizes
    ends = Ends(*(sum(sizes[g] for g in groups) for groups in (plan.inputs, plan.outputs)))
    if not plan.order or ends.outputs > _OUTPUTS or prod(ends) > _ELEMENTS:
        return None
    return ends


def _plan(graph: ParameterGraph) -> _Plan:
    made: _Plan = kept(graph, "through", lambda: _made_plan(graph))
    return made


def _made_plan(graph: ParameterGraph) -> _Plan:
    fixed = {f.id for f in graph.factors if not f.is_free}

    def chosen(role: str) -> tuple[int, ...]:
        return tuple(g.id for g in graph.groups if g.role == role and fixed.issuperset(g.factors))

    inputs, outputs = chosen("input"), chosen("output")
    back: dict[int, set[int]] = {g.id: set() for g in graph.groups}
    pairs = [(b.dst, b.src) for b in graph.blocks] + [(k.dst, k.src) for k in graph.links]
    for dst, src in pairs:
        back[dst].add(src)
    # every group after all that it leads to; an edge that closes a cycle is never followed twice
    done: list[int] = []
    seen: set[int] = set()
    for start in outputs:
        stack = [] if start in seen else [(start, iter(sorted(back[start])))]
        seen.add(start)
        while stack:
            group, sources = stack[-1]
            following = next((s for s in sources if s not in seen), None)
            if following is None:
                done.append(group)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(sorted(back[following]))))
    order = tuple(reversed(done)) if seen & set(inputs) else ()
    return _Plan(inputs, outputs, order)


def through_map(graph: ParameterGraph, blocks: Sequence[Tensor]) -> Tensor:
    """``[n, outputs * inputs]`` of length 1, from one ``[n, D, E]`` per block.

    ``[n, 0]`` where :func:`ends_of` says None; zeros where no path has a weight.
    """
    count, layout, like = len(blocks[0]), blocked(graph), blocks[0]
    ends = ends_of(graph)
    if ends is None:
        return like.new_zeros(count, 0)
    plan, sizes = _plan(graph), layout.group_sizes
    signals: dict[int, Tensor] = {}
    first = 0
    for group in plan.outputs:
        one_hot = like.new_zeros(ends.outputs, sizes[group])
        one_hot[first : first + sizes[group]].fill_diagonal_(1)
        signals[group] = one_hot.expand(count, -1, -1)
        first += sizes[group]

    def give(group: int, signal: Tensor) -> None:
        signals[group] = signals[group] + signal if group in signals else signal

    steps = list(zip(layout.blocks, blocks, strict=True))
    for group in plan.order:
        if group not in signals:
            continue
        signal = signals[group]
        for block, w in steps:
            if block.dst.group == group and block.src.group not in (group, *plan.outputs):
                edges = _to_end(block.dst, signal) @ w
                parallel = edges.unflatten(-1, (block.src.size, -1)).sum(-1)
                give(block.src.group, _to_nodes(block.src, parallel))
        for link in layout.links:
            if link.dst.group == group and link.src.group not in plan.outputs:
                give(link.src.group, _to_nodes(link.src, _to_end(link.dst, signal)))
    zero = like.new_zeros(count, ends.outputs, 1)
    parts = [signals.get(g, zero.expand(-1, -1, sizes[g])) for g in plan.inputs]
    flat = torch.cat(parts, -1).flatten(1)
    # by the largest element first: squares of small ones would be zero
    tiny = torch.finfo(flat.dtype).tiny
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(tiny)


def _to_end(end: Endpoint, signal: Tensor) -> Tensor:
    """``[..., nodes]`` to ``[..., size]``: the sum over all nodes that an end stands for."""
    if end.is_whole:
        return signal
    places = end.places().to(signal.device)
    (met,) = (places >= 0).nonzero(as_tuple=True)
    zeros = signal.new_zeros(*signal.shape[:-1], end.size)
    return zeros.index_add(-1, places[met], signal[..., met])


def _to_nodes(end: Endpoint, signal: Tensor) -> Tensor:
    """``[..., size]`` to ``[..., nodes]``; an end that stands for several is shared among them."""
    if end.is_whole:
        return signal
    places = end.places().to(signal.device)
    many = places[places >= 0].bincount(minlength=end.size).to(signal)
    share = signal / many
    return share[..., places.clamp_min(0)] * (places >= 0)


def coherence(graph: ParameterGraph, blocks: Sequence[Tensor]) -> Tensor:
    """``[n, COHERENCE]``: of the first layer of hidden neurons, of the last, means over all.

    With the Gram matrices ``A`` of the weights into the neurons and ``B`` of those out of them,
    ``tr(AB)`` is the squared norm of their product. Of each layer: its log relative to what
    strangers would have, how much weight strong neurons in are strong neurons out, how few
    directions the product has, and its log size. Zeros where there is no such layer.
    """
    sizes = blocked(graph).group_sizes
    into: dict[int, Tensor] = {}
    out: dict[int, Tensor] = {}
    for layout, bias, w, factor in zip(
        blocked(graph).blocks, biases(graph), blocks, edge_factors(graph), strict=True
    ):
        scaled = w * factor
        if bias or min(*w.shape[-2:]) == 0:
            continue
        if layout.dst.is_whole and sizes[layout.dst.group] <= _NEURONS:
            gram = scaled @ scaled.mT / scaled.shape[-1]
            into[layout.dst.group] = into.get(layout.dst.group, 0) + gram
        if layout.src.is_whole and sizes[layout.src.group] <= _NEURONS:
            columns = scaled.unflatten(-1, (layout.src.size, -1)).transpose(-1, -2).flatten(-3, -2)
            gram = columns.mT @ columns / len(columns[0])
            out[layout.src.group] = out.get(layout.src.group, 0) + gram
    depth = depths(graph)
    both = sorted((g for g in into if g in out), key=lambda g: (depth[g], g))
    if not both:
        return blocks[0].new_zeros(len(blocks[0]), COHERENCE)
    rows = [_layer(into[g], out[g]) for g in both]
    return torch.cat([rows[0], rows[-1], torch.stack(rows).mean(0)], -1)


def _layer(into: Tensor, out: Tensor) -> Tensor:
    """``[n, 4]`` of one layer, from two Gram matrices ``[n, N, N]``."""
    strong_in, strong_out = (g.diagonal(dim1=-2, dim2=-1) + _TINY**2 for g in (into, out))
    product = into @ out
    size = (into * out).sum((-1, -2)).clamp_min(0) + _TINY**2
    strangers = (strong_in * strong_out).sum(-1)
    matched = strangers / (strong_in.mean(-1) * strong_out.sum(-1))
    # tr((AB)^2) / tr(AB)^2: 1 where the product has one direction
    narrow = (product * product.mT).sum((-1, -2)).clamp_min(0) / size.square()
    parts = [size / strangers + _TINY, matched, narrow + _TINY, size]
    return torch.stack([p.log() for p in parts], -1)
