"""The configuration of a meta-training run, and states that do not fit it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from gmn_opt.meta import MetaConfig, MetaTrainer
from tasks.suites import MetaTrainSuite
from tests.meta.trainers import TINY, assert_same, everything


def test_a_state_of_another_version_is_refused() -> None:
    trainer = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    state = copy.deepcopy(trainer.state_dict())
    state["config"]["version"] = 7
    with pytest.raises(ValueError, match="version 7, this package reads version 4"):
        trainer.load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("outer"), r"lacks \['outer'\]"),
        (lambda s: s["config"].update(colour="red"), r"Unknown settings \['colour'\]"),
        (lambda s: s["config"]["rule"].update(colour=1), r"Unknown settings \['colour'\]"),
        (lambda s: s["config"]["rule"].update(hidden=5), "sizes RuleConfig\\(hidden=5"),
        (lambda s: s["average"].popitem(), "other names or shapes"),
        (lambda s: s["runs"][1]["task"].update(kind="rnn"), "does not describe a task"),
        (lambda s: s["runs"][0]["layout"].reverse(), "another order of blocks"),
        (lambda s: s["config"]["estimator"].update(name="Guess"), "Unknown estimator"),
        (lambda s: s["config"].update(runs=3), "open runs to the number of 3, this run asks for 2"),
        (lambda s: s["config"].update(dtype="float64"), "numbers in float64"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: Any, message: str
) -> None:
    trainer = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    trainer.meta_step()
    state = copy.deepcopy(trainer.state_dict())
    trainer.meta_step()
    before = everything(trainer)
    change(state)
    with pytest.raises(ValueError, match=message):
        trainer.load_state_dict(state)
    assert_same(everything(trainer), before)


def test_the_configuration_survives_json_and_stays_ones_own() -> None:
    assert MetaConfig.from_dict(TINY.to_dict()) == TINY
    trainer = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    other = MetaTrainer(
        MetaTrainSuite(("mlp", "tabular")), replace(TINY, lr=1e-4, weight_decay=0.3)
    )
    other.load_state_dict(trainer.state_dict())
    assert other.outer.param_groups[0]["weight_decay"] == 0.3
    assert other.meta_step().lr == pytest.approx(1e-4 / 3)


@pytest.mark.parametrize(
    "bad",
    [{"horizon": (5, 3)}, {"horizon": (0, 9)}, {"runs": 0}, {"max_networks": 0},
     {"meta_batch": 3}, {"meta_batch": 0}, {"validation_steps": 0}, {"dtype": "int8"},
     {"run_clip": -1.0}],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="received"):
        replace(TINY, **bad)
