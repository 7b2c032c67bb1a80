"""Charts: letters that stay readable, one legend, whole files or none."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest

from gmn_opt import figures


@pytest.mark.parametrize("width", [3.0, 5.0, 8.0, 16.0])
def test_letters_have_nine_pixels_on_a_page(width: float) -> None:
    """A page shows a picture 600 pixels wide; what is narrower stands as it is."""
    shown = min(600, width * figures.DPI)
    assert figures.letters(width) * shown / (72 * width) >= 8.99


def test_a_picture_in_the_style(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with figures.picture(tmp_path / "a.png", 5, 3) as figure:
        one, two = figure.subplots(1, 2)
        one.plot([0, 1], label="both")
        two.plot([1, 0], label="both")
        two.plot([1, 2], label="right")
        figures.legend_below(figure)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["both", "right"]
        assert one.lines[0].get_color() == figures.PALETTE[0]
        assert one.get_xlabel() == ""
    assert (tmp_path / "a.png").read_bytes()[16:24] == bytes([0, 0, 2, 238, 0, 0, 1, 194])  # size
    assert dict(matplotlib.rcParams) == before


def test_nothing_is_written_of_what_cannot_be_drawn(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"must end in \.png"),
        figures.picture(tmp_path / "a.txt", 5, 3),
    ):
        pass
    with pytest.raises(ZeroDivisionError), figures.picture(tmp_path / "a.svg", 5, 3) as figure:
        figure.subplots().plot([1 // 0])
    assert not list(tmp_path.iterdir())
