"""Values kept on an owner."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from gmn_opt.graph.calls import copy_inputs, tensors_in
from gmn_opt.kept import kept


@dataclass(frozen=True)
class Owner:
    name: str = "a"


def test_a_value_is_made_once_for_each_owner_and_key() -> None:
    one, two, made = Owner(), Owner(), []

    def make() -> list[str]:
        made.append(1)
        return ["value"]

    first = kept(one, "key", make)
    assert kept(one, "key", make) is first
    assert kept(one, ("key", 1), make) is not first
    assert kept(two, "key", make) is not first
    assert len(made) == 3
    assert one == two
    assert hash(one) == hash(two)


def test_a_copy_begins_without_and_nobody_looks_inside() -> None:
    """A trace shuffles the integers in copies of a model's inputs: an index must not be one."""
    one = Owner()
    index = kept(one, "index", lambda: torch.arange(3))
    assert not list(tensors_in([one]))
    for again in (copy.deepcopy(one), copy_inputs((one,))[0]):
        assert again == one
        assert kept(again, "index", lambda: torch.arange(4)).tolist() == [0, 1, 2, 3]
    assert kept(one, "index", lambda: torch.arange(4)) is index
