"""Configs as plain values and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from gmn_opt.codec import Choice, by_name, decode, encode


class Shape:
    """A base class of several."""


@dataclass(frozen=True)
class Disc(Shape):
    radius: float = 1.0


@dataclass(frozen=True)
class Pair(Shape):
    parts: tuple[Shape, ...]
    at: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Drawing:
    shape: Shape = field(default_factory=Disc)
    frame: Disc | None = None
    title: str = ""


CHOICE = Choice(Shape, "kind", "shape", by_name((Disc, Pair)))


@pytest.mark.parametrize(
    "drawing",
    [Drawing(), Drawing(Pair((Disc(2.0), Pair((Disc(),), (3, 4)))), Disc(0.5), "two")],
)
def test_there_and_back_by_way_of_json(drawing: Drawing) -> None:
    assert decode(Drawing, json.loads(json.dumps(encode(drawing)))) == drawing


def test_only_members_of_a_choice_say_what_they_are() -> None:
    assert encode(Drawing(Disc(), Disc())) == {
        "shape": {"kind": "Disc", "radius": 1.0},
        "frame": {"radius": 1.0},
        "title": "",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shape": {"kind": "Star"}}, "Unknown shape .*Star.*'kind' is one of.*Disc.*Pair"),
        ({"shape": {"kind": "Disc", "size": 2}}, r"Unknown settings \['size'\] of Disc.*radius"),
        ({"colour": 1}, r"Unknown settings \['colour'\] of Drawing"),
    ],
)
def test_what_is_not_known_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(Drawing, values)
    with pytest.raises(ValueError, match="Unknown shape"):
        CHOICE.decode("Disc")
