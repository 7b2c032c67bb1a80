from __future__ import annotations

import math

import pytest

from gmn_opt.cli.contest import DEFAULT_RATE, RATES, adamw, format_rate, neighbour, tune


def test_best_rate_has_the_lowest_mean() -> None:
    tuning = tune({1e-3: [1.0, 3.0], 3e-4: [2.0, 2.1], 3e-3: [0.5, 3.4]})

    assert tuning.best == 3e-3
    assert list(tuning.losses) == [3e-4, 1e-3, 3e-3]


def test_best_inside_the_grid_asks_for_no_more() -> None:
    tuning = tune({rate: [abs(math.log(rate / 3e-3))] for rate in RATES})

    assert not tuning.at_edge
    assert tuning.next_rate is None
    assert "EDGE" not in tuning.describe()


@pytest.mark.parametrize(("sign", "wanted"), [(1, 1e-4), (-1, 1e-1)])
def test_best_at_an_edge_is_said_and_extends_the_grid(sign: int, wanted: float) -> None:
    losses = {rate: [sign * math.log(rate)] for rate in RATES}
    tuning = tune(losses)

    assert tuning.at_edge
    assert tuning.next_rate == pytest.approx(wanted)
    assert "AT THE EDGE" in tuning.describe()

    extended = tune(losses | {wanted: [100.0]})
    assert extended.added == [wanted]
    assert not extended.at_edge
    assert "EXTENDED" in extended.describe()


def test_diverged_rates_lose() -> None:
    assert tune({1e-3: [2.0], 1e-2: [math.inf]}).best == 1e-3


def test_no_rates() -> None:
    with pytest.raises(ValueError, match="no rates"):
        tune({})


def test_ladder() -> None:
    assert neighbour(3e-4, up=False) == 1e-4
    assert neighbour(1e-4, up=False) == 3e-5
    assert neighbour(3e-2, up=True) == 1e-1
    assert neighbour(1e-1, up=True) == 3e-1


def test_default_rate_is_in_the_grid_and_is_torchs() -> None:
    import torch

    layer = torch.nn.Linear(2, 2)
    made = adamw(DEFAULT_RATE).make_optimizer(layer, 1)

    assert DEFAULT_RATE in RATES
    assert made.defaults == torch.optim.AdamW(layer.parameters()).defaults


def test_rates_are_written_as_people_write_them() -> None:
    assert [format_rate(rate) for rate in (3e-4, 1e-2, 0.1)] == ["3e-4", "1e-2", "1e-1"]
