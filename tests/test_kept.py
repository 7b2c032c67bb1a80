"""Values kept on an owner."""

from __future__ import annotations

from dataclasses import dataclass

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
