"""Attention, recognized by its products: queries meet keys over their dims, scores meet values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Axis, Fact, Label, SiteRef

Refs = frozenset[SiteRef]


class Side(NamedTuple):
    """One factor of a product: its neurons, and how many heads of how many dims they are."""

    refs: Refs
    heads: int
    dims: int


class Scores(NamedTuple):
    """Products of two sides over their dims; which dim of the tensor runs over whose positions."""

    rows: Side
    columns: Side
    row_dim: int
    column_dim: int


class Context(NamedTuple):
    """Two sides multiplied and summed over positions, as in linear attention."""

    one: Side
    two: Side


def refs_of(axis: Axis) -> Iterator[SiteRef]:
    """Sites of hidden neurons along an axis, those of joined parts each for themselves."""
    for leg in lab.expand_axis(axis):
        for part in leg.parts or ():
            yield from refs_of(part)
        if not leg.parts and leg.site is not None and leg.site.site.kind == "hidden":
            yield leg.site


def note(where: Iterable[SiteRef], name: str, heads: int = 0, dims: int = 0) -> None:
    """Note a fact about the neurons of some sites."""
    for ref in where:
        ref.site.facts.add(Fact(name, ref.offset, heads, dims))


def side(label: Label, axis: Axis) -> Side | None:
    """The side whose dims are ``axis``; None where these are no hidden neurons."""
    found = frozenset(refs_of(axis))
    if not found:
        return None
    sites = {r.site for r in found}
    batch = [g for a in label.axes[:-2] for g in lab.expand_axis(a)]
    heads = prod(g.set.size for g in batch if g.site is not None and g.site.site in sites)
    return Side(found, heads, sets.size_of(lab.sets_of(axis)))


def begin(a: Label, b: Label, ndim: int) -> tuple[tuple[Scores, ...], tuple[Context, ...]]:
    """What the product of two activations ``[.., m, k] @ [.., k, n]`` may become."""
    left, right = side(a, a.axes[-1]), side(b, b.axes[-2])
    if left is not None and right is not None:
        if left.refs == right.refs:
            return (), ()
        return (Scores(left, right, ndim - 2, ndim - 1),), ()
    if left is None and right is None:
        left, right = side(a, a.axes[-2]), side(b, b.axes[-1])
        if left is not None and right is not None and left.refs != right.refs:
            return (), (Context(left, right),)
    return (), ()


def attend(
    a: Label,
    b: Label,
    left: Sequence[Scores],
    right: Sequence[Scores],
    left_context: Sequence[Context],
    right_context: Sequence[Context],
) -> tuple[int, int] | None:
    """Note queries, keys and values where a product completes an attention; its heads and dims."""
    values = side(b, b.axes[-1]) if left else side(a, a.axes[-2]) if right else None
    if values is not None:
        summed = len(a.axes) - 1 if left else len(b.axes) - 2
        for found in left or right:
            if summed not in (found.row_dim, found.column_dim):
                continue
            across = summed == found.column_dim
            of_query, of_key = (found.rows, found.columns)[:: 1 if across else -1]
            _note(of_query, of_key, values)
            return of_query.heads, values.dims
    query = side(a, a.axes[-1]) if right_context else side(b, b.axes[-2]) if left_context else None
    inner = b.axes[-2] if right_context else a.axes[-1]
    if query is not None:
        met = set(refs_of(inner))
        for pair in right_context or left_context:
            key, value = (pair.one, pair.two) if met & pair.one.refs else (pair.two, pair.one)
            if met & key.refs:
                _note(query, key, value)
                return query.heads, value.dims
    return None


def _note(query: Side, key: Side, value: Side) -> None:
    for name, found in (("query", query), ("key", key), ("value", value)):
        note(found.refs, name, found.heads, found.dims)


def moved_scores(
    scores: tuple[Scores, ...], name: str, args: Any, inputs: Sequence[Tensor], out: Tensor
) -> tuple[Scores, ...]:
    """Where the rows and columns of scores are after an operator; without those that are gone."""
    kept = []
    for found in scores:
        dims = [_moved(d, name, args, inputs, out) for d in (found.row_dim, found.column_dim)]
        if dims[0] is not None and dims[1] is not None and dims[0] != dims[1]:
            kept.append(found._replace(row_dim=dims[0], column_dim=dims[1]))
    return tuple(kept)


VIEWS = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze",
                   "flatten", "select", "unflatten"})  # fmt: skip


def _moved(dim: int, name: str, args: Any, inputs: Sequence[Tensor], out: Tensor) -> int | None:
    x = next((t for t in inputs if t.dim() > dim), None)
    if x is None:
        return None
    if name in ("transpose", "swapaxes", "transpose_"):
        one, two = args[1] % x.dim(), args[2] % x.dim()
        return two if dim == one else one if dim == two else dim
    if name in ("t", "mT", "numpy_T"):
        ends = {x.dim() - 1: x.dim() - 2, x.dim() - 2: x.dim() - 1}
        return ends.get(dim, dim)
    if name in ("permute", "permute_copy"):
        return [d % x.dim() for d in args[1]].index(dim)
    if name in VIEWS:
        size, behind = x.shape[dim], prod(x.shape[dim + 1 :])
        same = [d for d, n in enumerate(out.shape) if n > 1 and prod(out.shape[d + 1 :]) == behind]
        return next((d for d in same if size % out.shape[d] == 0), None)
    widest = max(t.dim() for t in inputs)
    at = dim + out.dim() - (x.dim() if len(inputs) == 1 else widest)
    return at if 0 <= at < out.dim() else None


__all__ = ["Context", "Scores", "Side", "attend", "begin", "moved_scores", "note", "refs_of"]
