"""Index sets while tracing: a union-find of sets that are made equal, split, cut and pinned down.

Every axis of every traced tensor runs over index sets. Operators make sets equal (``unify``), split
them (``split``, ``cut_product``), cut them into segments (``segment``) or pin them down (``fix``).
Where two do not fit, both are fixed: a fixed index set loses a symmetry, but never claims a wrong
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from math import prod

MAX_SEGMENTS = 64
_serial = count()


class IndexSet:
    """An index set of ``size`` elements; equal sets share a root.

    At most one of ``factors`` (this set is a product, outermost first) and ``segments`` (this set
    is a concatenation of axes) is given; a set with neither is a leaf. A leaf with ``members``
    is a family: the set depends on the index along the set ``over`` (one member per index, which
    may repeat), which every tensor that has the family has too. Where it does not, the family
    collapses: its members become one.
    ``along`` says that each index of this set belongs to one of another set (tokens sorted by
    expert), and by which of all such routings.
    """

    __slots__ = (
        "along", "factors", "fixed", "members", "over", "parent", "segments", "serial", "size",
    )  # fmt: skip

    def __init__(self, size: int, fixed: str | None = None) -> None:
        self.size = size
        self.fixed = fixed
        self.parent: IndexSet | None = None
        self.factors: tuple[IndexSet, ...] | None = None
        self.segments: tuple[tuple[IndexSet, ...], ...] | None = None
        self.members: tuple[IndexSet, ...] | None = None
        self.over: IndexSet | None = None
        self.along: tuple[IndexSet, int] | None = None
        self.serial = next(_serial)

    def __repr__(self) -> str:
        return f"IndexSet({self.size}{', ' + self.fixed if self.fixed else ''})"


def find(one: IndexSet) -> IndexSet:
    """The root that stands for ``one``."""
    while one.parent is not None:
        if one.parent.parent is not None:
            one.parent = one.parent.parent
        one = one.parent
    return one


def expand(sets: Iterable[IndexSet]) -> list[IndexSet]:
    """Roots with every product written out, outermost first."""
    out: list[IndexSet] = []
    for one in sets:
        root = find(one)
        out.extend(expand(root.factors) if root.factors is not None else (root,))
    return out


def size_of(sets: Iterable[IndexSet]) -> int:
    """Number of elements of an axis."""
    return prod(one.size for one in sets)


def fix(sets: Iterable[IndexSet], reason: str) -> None:
    """Pin down the order of every index set in ``sets`` and of all that they are made of."""
    for one in sets:
        root = find(one)
        if root.fixed is None:
            root.fixed = reason
            for child in children(root):
                fix((child,), reason)


def children(root: IndexSet) -> Iterator[IndexSet]:
    """The sets that ``root`` is directly made of."""
    yield from root.factors or ()
    yield from root.members or ()
    for segment in root.segments or ():
        yield from segment


def split(one: IndexSet, outer: int) -> tuple[IndexSet, IndexSet] | None:
    """Write ``one`` as a product of ``outer`` times the rest; None if it cannot be."""
    root = find(one)
    inner = root.size // outer
    if root.members is not None:
        tried = [cut_product((m,), inner) for m in root.members]
        cuts = [h for h in tried if h is not None and len(h[0]) == len(h[1]) == 1]
        if len(cuts) < len(tried):
            return split(collapse(root), outer)
        head, tail = IndexSet(outer, root.fixed), IndexSet(inner, root.fixed)
        head.members, tail.members = tuple(c[0][0] for c in cuts), tuple(c[1][0] for c in cuts)
        head.over = tail.over = root.over
        root.members, root.factors = None, (head, tail)
        return head, tail
    if root.segments is None:
        root.factors = (IndexSet(outer, root.fixed), IndexSet(inner, root.fixed))
        return root.factors[0], root.factors[1]
    heads: list[tuple[IndexSet, ...]] = []
    tails: list[list[IndexSet]] = []
    for segment in flat_segments(root):
        pair = cut_product(segment, inner)
        if pair is None:
            return None
        heads.append(tuple(pair[0]) or (IndexSet(1, root.fixed),))
        tails.append(pair[1])
    for other in tails[1:]:
        unify(tails[0], other)
    head = IndexSet(outer, root.fixed)
    head.segments = tuple(heads)
    tail_set = IndexSet(inner, root.fixed)
    tail_set.factors = tuple(expand(tails[0]))
    root.segments = None
    root.factors = (head, tail_set)
    return head, tail_set


def make_family(one: IndexSet, counts: Sequence[int]) -> tuple[IndexSet, IndexSet] | None:
    """Cut a leaf into packed parts of ``counts`` rows each; returns row index and family of rows.

    Rows of one part are alike: three heads of queries, then one of keys and one of values make
    ``counts = (3, 1, 1)``, a free order of the three, and three kinds of dims.
    """
    root = find(one)
    rows = sum(counts)
    size = root.size // rows
    single = all(n == 1 for n in counts)
    known = flat_segments(root)
    fits = not known or (single and [size_of(s) for s in known] == [size] * rows)
    if not fits or root.members is not None or root.fixed is not None:
        return None
    over = IndexSet(rows, "the order of packed parts" if single else None)
    heads = [IndexSet(n) for n in counts]
    parts = [_one_set(s) for s in known] or [IndexSet(size) for _ in counts]
    root.segments = tuple(
        (part,) if n == 1 else (head, part)
        for n, head, part in zip(counts, heads, parts, strict=True)
    )
    if not single:
        over.segments = tuple((head,) for head in heads)
    family = IndexSet(size)
    family.members = tuple(part for n, part in zip(counts, parts, strict=True) for _ in range(n))
    family.over = over
    return over, family


def _one_set(axis: tuple[IndexSet, ...]) -> IndexSet:
    """An axis as a single set."""
    if len(axis) == 1:
        return axis[0]
    whole = IndexSet(size_of(axis))
    whole.factors = axis
    return whole


def collapse(one: IndexSet) -> IndexSet:
    """Make all members of a family one index set, and the family that set."""
    root = find(one)
    if root.members is None:
        return root
    members, root.members, root.over = root.members, None, None
    for other in members[1:]:
        unify((members[0],), (other,))
    root.factors = tuple(expand((members[0],)))
    if root.fixed is not None:
        fix(root.factors, root.fixed)
    return root


def cut_product(
    sets: Sequence[IndexSet], inner: int
) -> tuple[list[IndexSet], list[IndexSet]] | None:
    """Cut an axis into an outer and an inner product, the inner one of size ``inner``."""
    outer_sets = expand(sets)
    inner_sets: list[IndexSet] = []
    rest = inner
    while rest > 1:
        if not outer_sets:
            return None
        last = outer_sets.pop()
        if rest % last.size == 0:
            inner_sets.insert(0, last)
            rest //= last.size
        elif last.size % rest == 0:
            halves = split(last, last.size // rest)
            if halves is None:
                return None
            outer_sets.append(halves[0])
            inner_sets.insert(0, halves[1])
            rest = 1
        else:
            return None
    return outer_sets, inner_sets


def flat_segments(root: IndexSet) -> list[tuple[IndexSet, ...]]:
    """Segments of a concatenation, with directly nested concatenations written out."""
    out: list[tuple[IndexSet, ...]] = []
    for segment in root.segments or ():
        sets = expand(segment)
        if len(sets) == 1 and sets[0].segments is not None:
            out.extend(flat_segments(sets[0]))
        else:
            out.append(tuple(sets))
    return out


def segment(sets: Sequence[IndexSet], sizes: Sequence[int]) -> list[tuple[IndexSet, ...]] | None:
    """Cut an axis into consecutive segments of ``sizes``; None if it had to be fixed instead."""
    for n in expand(sets):
        collapse(n)
    axis = [n for n in expand(sets) if n.size > 1] or expand(sets)
    if len(sizes) == 1:
        return [tuple(axis)]
    if len(sizes) > MAX_SEGMENTS or not axis:
        return None
    outer, inner = axis[0], axis[1:]
    step = size_of(inner)
    if any(s % step for s in sizes):
        return None
    cut = _cut_set(outer, [s // step for s in sizes])
    return None if cut is None else [(*part, *inner) for part in cut]


def _cut_set(root: IndexSet, sizes: Sequence[int]) -> list[tuple[IndexSet, ...]] | None:
    if root.segments is not None:
        return _cut_segments(root, sizes)
    root.segments = tuple((IndexSet(s, root.fixed),) for s in sizes)
    return list(root.segments)


def _cut_segments(root: IndexSet, sizes: Sequence[int]) -> list[tuple[IndexSet, ...]] | None:
    """Cut a concatenation at further places."""
    have = [size_of(s) for s in flat_segments(root)]
    bounds = sorted(set(_bounds(have)) | set(_bounds(sizes)))
    if len(bounds) > MAX_SEGMENTS:
        return None
    start = 0
    for seg in flat_segments(root):
        stop = start + size_of(seg)
        inside = [b for b in bounds if start < b <= stop]
        if len(inside) > 1:
            steps = [b - a for a, b in zip([start, *inside], inside, strict=False)]
            if segment(seg, steps) is None:
                return None
        start = stop
    pieces: list[tuple[IndexSet, ...]] = []
    for seg in flat_segments(root):
        # A product cut along its outermost factor shows as that factor's segments.
        if len(seg) > 1 and seg[0].segments is not None:
            pieces.extend((*s, *seg[1:]) for s in flat_segments(seg[0]))
        else:
            pieces.append(seg)
    out: list[tuple[IndexSet, ...]] = []
    at = 0
    for s in sizes:
        group: list[tuple[IndexSet, ...]] = []
        total = 0
        while total < s and at < len(pieces):
            group.append(pieces[at])
            total += size_of(pieces[at])
            at += 1
        if total != s:
            return None
        if len(group) == 1:
            out.append(group[0])
        else:
            joined = IndexSet(s)
            joined.segments = tuple(group)
            out.append((joined,))
    return out


def _bounds(sizes: Sequence[int]) -> list[int]:
    out, at = [], 0
    for s in sizes:
        at += s
        out.append(at)
    return out


def unify(
    a: Sequence[IndexSet], b: Sequence[IndexSet], reason: str = "axes that do not fit"
) -> bool:
    """Make two axes of equal size the same, or fix both; returns whether they are the same now."""
    left, right = expand(a), expand(b)
    if not (len(left) == 1 and len(right) == 1):
        left = [n for n in left if n.size != 1]
        right = [n for n in right if n.size != 1]
    while left and right:
        x, y = left.pop(0), right.pop(0)
        if x is y:
            continue
        if (x.members or y.members) and not _same_family(x, y):
            left[:0], right[:0] = expand((collapse(x),)), expand((collapse(y),))
            continue
        if x.size == y.size:
            if not _merge(x, y, reason):
                fix([*left, *right], reason)
                return False
            continue
        big, small, rest, other = (x, y, left, right) if x.size > y.size else (y, x, right, left)
        halves = split(big, small.size) if big.size % small.size == 0 else None
        if halves is None or small in expand(halves):
            fix([x, y, *left, *right], reason)
            return False
        rest[:0] = expand(halves)
        other.insert(0, small)
    return True


def _same_family(x: IndexSet, y: IndexSet) -> bool:
    """Whether two families run over the same index, member by member."""
    if x.members is None or y.members is None or x.over is None or y.over is None:
        return False
    return x.size == y.size and find(x.over) is find(y.over)


def _merge(x: IndexSet, y: IndexSet, reason: str) -> bool:
    """Join two roots of equal size, neither of them a product."""
    if x.members is not None and y.members is not None:
        for m, n in zip(x.members, y.members, strict=True):
            unify((m,), (n,), reason)
        x.parent = y
        if x.fixed:
            fix([y], x.fixed)
        return True
    if x.segments is not None and y.segments is not None:
        mine, theirs = flat_segments(x), flat_segments(y)
        if [size_of(s) for s in mine] != [size_of(s) for s in theirs]:
            cut = _cut_segments(x, [size_of(s) for s in theirs])
            again = _cut_segments(y, [size_of(s) for s in flat_segments(x)]) if cut else None
            mine, theirs = flat_segments(x), flat_segments(y)
            if again is None or [size_of(s) for s in mine] != [size_of(s) for s in theirs]:
                fix([x, y], reason)
                return False
        for s, t in zip(mine, theirs, strict=True):
            unify(s, t, reason)
        x, y = find(x), find(y)
        if x is y:
            return True
    if x in _below(y) or y in _below(x):
        fix([x, y], reason)
        return False
    keep, drop = (x, y) if x.segments is not None else (y, x)
    if keep.segments is None and keep.serial > drop.serial:
        keep, drop = drop, keep
    why = keep.fixed or drop.fixed
    if keep.along is None or drop.along is None:
        keep.along = keep.along or drop.along
    elif keep.along[1] != drop.along[1]:
        keep.along = None
    drop.parent = keep
    drop.segments = None
    keep.fixed = None
    if why is not None:
        fix([keep], why)
    return True


def _below(root: IndexSet) -> set[IndexSet]:
    """All roots that ``root`` is made of."""
    out: set[IndexSet] = set()
    stack = [find(c) for c in children(root)]
    while stack:
        one = stack.pop()
        if one not in out:
            out.add(one)
            stack.extend(find(c) for c in children(one))
    return out
