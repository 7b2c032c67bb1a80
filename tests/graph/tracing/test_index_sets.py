"""Index sets: what is made equal, split, cut and fixed, and what follows for the others."""

from __future__ import annotations

import pytest

from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing.index_sets import IndexSet


def sizes(*axis: IndexSet) -> list[int]:
    return [one.size for one in sets.expand(axis)]


def test_equal_sets_share_a_root_and_the_reason_to_be_fixed() -> None:
    a, b, c = IndexSet(4), IndexSet(4), IndexSet(4, "pixels")
    assert sets.unify([a], [b])
    assert sets.find(a) is sets.find(b)
    assert sets.find(a).fixed is None
    assert sets.unify([b], [c])
    assert sets.find(a).fixed == "pixels"


def test_a_product_is_split_where_it_meets_its_factors() -> None:
    whole, outer, inner = IndexSet(6), IndexSet(2), IndexSet(3)
    assert sets.unify([whole], [outer, inner])
    first, second = sets.expand([whole])
    assert (first, second) == (sets.find(outer), sets.find(inner))
    # The same set as another product does not fit: everything involved is fixed.
    other = [IndexSet(3), IndexSet(2)]
    assert not sets.unify([whole], other, "odd")
    assert {one.fixed for one in sets.expand([whole, *other])} == {"odd"}


def test_sizes_without_a_common_factor_are_fixed() -> None:
    a, b = [IndexSet(4), IndexSet(3)], [IndexSet(6), IndexSet(2)]
    assert not sets.unify(a, b, "odd")
    assert all(one.fixed == "odd" for one in [*a, *b])


def test_axes_of_size_one_meet_anything() -> None:
    a, b = IndexSet(5), IndexSet(5)
    assert sets.unify([IndexSet(1), a], [b, IndexSet(1)])
    assert sets.find(a) is sets.find(b)


def test_a_set_is_no_part_of_itself() -> None:
    part, whole = IndexSet(3), IndexSet(3)
    whole.segments = ((IndexSet(1),), (IndexSet(2),))
    assert sets.unify([part], [whole]), "another set of the size becomes the concatenation"
    inner, outer = IndexSet(3), IndexSet(3)
    outer.segments = ((inner,),)
    assert not sets.unify([inner], [outer], "odd")
    assert (inner.fixed, outer.fixed) == ("odd", "odd")


def test_fixing_a_whole_fixes_its_parts_and_not_the_other_way_round() -> None:
    whole = IndexSet(6)
    head, tail = sets.split(whole, 2) or pytest.fail("6 = 2 x 3")
    sets.fix([tail], "kernel")
    assert (head.fixed, whole.fixed) == (None, None)
    sets.fix([whole], "pixels")
    assert (head.fixed, tail.fixed) == ("pixels", "kernel"), "the first reason stays"


def test_segments_are_cut_further_and_meet_piece_by_piece() -> None:
    a, b = IndexSet(10), IndexSet(10)
    assert sets.segment([a], [4, 6]) is not None
    assert sets.segment([b], [2, 8]) is not None
    assert sets.unify([a], [b])
    assert [sets.size_of(s) for s in sets.flat_segments(sets.find(a))] == [2, 2, 6]
    # The outermost factor is what a cut of a product cuts.
    outer, inner = IndexSet(4), IndexSet(3)
    parts = sets.segment([outer, inner], [3, 9])
    assert parts is not None
    assert [[one.size for one in part] for part in parts] == [[1, 3], [3, 3]]
    assert sets.segment([outer, inner], [4, 8]) is None, "not between two rows"


def test_a_concatenation_of_equal_products_is_a_product() -> None:
    whole = IndexSet(12)
    assert sets.segment([whole], [6, 6]) is not None
    for part in whole.segments or ():
        assert sets.cut_product(part, 3) is not None
    head, tail = sets.split(whole, 4) or pytest.fail("12 = 4 x 3")
    assert (head.size, tail.size) == (4, 3)
    assert [sets.size_of(s) for s in sets.flat_segments(head)] == [2, 2]


def test_members_of_a_family_become_one_when_it_collapses() -> None:
    packed = IndexSet(15)
    over, family = sets.make_family(packed, (3, 1, 1)) or pytest.fail("15 = 5 x 3")
    assert over.size == 5
    assert family.members is not None
    q, k, v = (family.members[i] for i in (0, 3, 4))
    assert family.members[:3] == (q, q, q)
    assert len({sets.find(one) for one in (q, k, v)}) == 3
    sets.collapse(family)
    assert len({sets.find(one) for one in (q, k, v)}) == 1
    assert sets.expand([family]) == [sets.find(q)]


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 1)])
def test_fixed_sets_make_no_family(counts: tuple[int, ...]) -> None:
    assert sets.make_family(IndexSet(6, "pixels"), counts) is None
    found = sets.make_family(IndexSet(6), counts)
    assert found is not None
    # Parts of several rows keep a free order of these; single ones are told apart by place.
    assert (found[0].fixed is None) == (max(counts) > 1)
