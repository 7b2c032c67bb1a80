"""The meta-training loop: resume bit by bit, counting of what goes wrong, bad states."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.meta import MetaConfig, MetaStep, MetaTrainer
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.optim import RuleConfig
from tasks.classification import ImageClassification
from tasks.suites import MetaTrainSuite
from tests.meta.small_tasks import Explosive, OneTask

TINY = MetaConfig(
    meta_steps=7,
    runs=2,
    max_networks=2,
    edges_per_batch=4000,
    truncation=(1, 3),
    horizon=(3, 8),
    warmup=3,
    rule=RuleConfig(hidden=4, edge_hidden=2, layers=1),
)


def everything(trainer: MetaTrainer) -> dict[str, Any]:
    """The state as a flat dictionary of copies."""
    flat: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}/{key}", inner)
        elif isinstance(value, list | tuple):
            for i, inner in enumerate(value):
                walk(f"{path}/{i}", inner)
        else:
            flat[path] = value.clone() if isinstance(value, Tensor) else value

    walk("", trainer.state_dict())
    return flat


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, Tensor) else value == b[key]
        assert same, key


@pytest.mark.parametrize("second_order", [False, True])
def test_going_on_from_a_checkpoint_equals_never_stopping(
    tmp_path: Path, second_order: bool
) -> None:
    config = replace(TINY, second_order=second_order)
    whole = MetaTrainer(MetaTrainSuite(), config)
    steps = []
    for step in whole.train():
        steps.append(step)
        if step.step in (1, 4):
            save_checkpoint(tmp_path / f"{step.step}.pt", whole.state_dict())
    assert len(steps) == whole.step == config.meta_steps
    for stop in (1, 4):
        torch.rand(17)  # the global random state must not matter
        again = MetaTrainer(MetaTrainSuite(), config)
        again.load_state_dict(load_checkpoint(tmp_path / f"{stop}.pt"))
        assert list(again.train()) == steps[stop:]
        assert_same(everything(whole), everything(again))


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    trainer = MetaTrainer(MetaTrainSuite(), TINY)
    for _ in range(5):
        trainer.meta_step()
    trainer.averaged_rule()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_loaded_trainer_shares_nothing_with_the_state() -> None:
    first = MetaTrainer(MetaTrainSuite(), TINY)
    for _ in range(4):
        first.meta_step()
    frozen = everything(first)
    second = MetaTrainer(MetaTrainSuite(), TINY)
    second.load_state_dict(first.state_dict())
    for _ in range(4):
        second.meta_step()
    assert_same(everything(first), frozen)


def test_another_seed_is_another_run() -> None:
    a, b = (MetaTrainer(MetaTrainSuite(), replace(TINY, seed=s)) for s in (0, 1))
    assert a.meta_step() != b.meta_step()


def test_learning_rate_schedule() -> None:
    config = replace(TINY, meta_steps=100, warmup=10, cooldown=0.4, lr=1.0)
    trainer = MetaTrainer(OneTask(ImageClassification("digits", 8, (4,))), config)
    rates = []
    for step in range(100):
        trainer.step = step
        rates.append(trainer._lr())
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:60] == [1.0] * 50
    assert rates[60:] == pytest.approx([(100 - i) / 40 for i in range(60, 100)])


def run_explosive(cure: str, steps: int = 15) -> tuple[MetaTrainer, list[MetaStep]]:
    config = replace(TINY, meta_steps=steps, runs=1, horizon=(9, 9), truncation=(3, 3))
    task = Explosive("mnist", 8, (4,), batch_size=4, cure=cure)

    class Source(OneTask):
        def sample(self, generator: torch.Generator) -> ImageClassification:
            super().sample(generator)

            class Single(Explosive):
                def batch(self, split, count, generator):  # type: ignore[no-untyped-def]
                    batch = super().batch(split, count, generator)
                    return {n: t.float() if n != "y" else t for n, t in batch.items()}

            return Single("mnist", 8, (4,), batch_size=4, cure=cure)

    trainer = MetaTrainer(Source(task), config)
    return trainer, [trainer.meta_step() for _ in range(steps)]


def test_non_finite_losses_are_counted_and_skipped() -> None:
    trainer, steps = run_explosive("nan")
    bad = [s for s in steps if not math.isfinite(s.loss)]
    assert len(bad) >= 3
    assert trainer.counts["skipped"] == len(bad)
    assert trainer.counts["non-finite"] == sum(s.event == "non-finite" for s in steps) >= 1
    # the meta-parameters have seen none of it
    for p in trainer.rule.parameters():
        assert bool(p.isfinite().all())
    assert all(bool(t.isfinite().all()) for t in trainer.average.values())
    for s in bad:
        assert math.isnan(s.grad_norm)


def test_a_skipped_step_leaves_the_meta_parameters_untouched() -> None:
    trainer, _ = run_explosive("nan", steps=3)
    before = {n: p.detach().clone() for n, p in trainer.rule.named_parameters()}
    while math.isfinite(trainer.meta_step().loss):
        before = {n: p.detach().clone() for n, p in trainer.rule.named_parameters()}
    assert all(torch.equal(before[n], p) for n, p in trainer.rule.named_parameters())


def test_divergence_is_counted_and_ends_the_run() -> None:
    trainer, steps = run_explosive("large")
    ended = [s for s in steps if s.event == "diverged"]
    assert trainer.counts["diverged"] == len(ended) >= 2
    for one, following in itertools.pairwise(steps):
        if one.event != "ok":
            assert following.inner_step == 0


def test_every_event_is_counted_once() -> None:
    trainer = MetaTrainer(MetaTrainSuite(), TINY)
    events = [s.event for s in trainer.train()]
    assert {e: events.count(e) for e in ("finished", "diverged", "non-finite")} == {
        e: n for e, n in trainer.counts.items() if e != "skipped"
    }
    assert "finished" in events


def test_a_state_of_another_version_is_refused() -> None:
    trainer = MetaTrainer(MetaTrainSuite(), TINY)
    state = copy.deepcopy(trainer.state_dict())
    state["config"]["version"] = 7
    with pytest.raises(ValueError, match="version 7, this package reads version 1"):
        trainer.load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("outer"), r"lacks \['outer'\]"),
        (lambda s: s["config"].update(colour="red"), r"Unknown settings \['colour'\]"),
        (lambda s: s["config"]["rule"].update(colour=1), r"Unknown sizes \['colour'\]"),
        (lambda s: s["config"]["rule"].update(hidden=5), "sizes RuleConfig\\(hidden=5"),
        (lambda s: s["average"].popitem(), "other names or shapes"),
        (lambda s: s["runs"][1]["task"].update(kind="rnn"), "does not describe a task"),
        (lambda s: s["runs"][0]["layout"].reverse(), "another order of blocks"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: Any, message: str
) -> None:
    trainer = MetaTrainer(MetaTrainSuite(), TINY)
    trainer.meta_step()
    state = copy.deepcopy(trainer.state_dict())
    trainer.meta_step()
    before = everything(trainer)
    change(state)
    with pytest.raises(ValueError, match=message):
        trainer.load_state_dict(state)
    assert_same(everything(trainer), before)


def test_states_without_a_layout_still_load() -> None:
    trainer = MetaTrainer(MetaTrainSuite(), TINY)
    state = copy.deepcopy(trainer.state_dict())
    for run in state["runs"]:
        del run["layout"]
    other = MetaTrainer(MetaTrainSuite(), replace(TINY, seed=3))
    other.load_state_dict(state)
    assert other.meta_step() == trainer.meta_step()


def test_the_configuration_survives_json_and_stays_ones_own() -> None:
    assert MetaConfig.from_dict(TINY.to_dict()) == TINY
    trainer = MetaTrainer(MetaTrainSuite(), TINY)
    other = MetaTrainer(MetaTrainSuite(), replace(TINY, lr=1e-4, weight_decay=0.3))
    other.load_state_dict(trainer.state_dict())
    assert other.outer.param_groups[0]["weight_decay"] == 0.3
    other.meta_step()
    assert other.outer.param_groups[0]["lr"] == pytest.approx(1e-4 / 3)


@pytest.mark.parametrize(
    "bad",
    [{"truncation": (0, 3)}, {"truncation": (5, 3)}, {"horizon": (0, 9)}, {"runs": 0},
     {"max_networks": 0}],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="received"):
        replace(TINY, **bad)


@pytest.mark.gpu
def test_a_run_moves_between_cpu_and_cuda(tmp_path: Path) -> None:
    config = replace(TINY, meta_steps=30)
    first = MetaTrainer(MetaTrainSuite(), config, "cuda")
    for _ in range(4):
        first.meta_step()
    assert first.runs[0].state.theta.is_cuda
    save_checkpoint(tmp_path / "c.pt", first.state_dict())
    for device in ("cuda", "cpu"):
        second = MetaTrainer(MetaTrainSuite(), config, device)
        second.load_state_dict(load_checkpoint(tmp_path / "c.pt"))
        assert second.runs[0].state.theta.device.type == device
        assert all(
            t.device.type == device
            for s in second.outer.state.values()
            for n, t in s.items()
            if n != "step"
        )
        assert second.meta_step().step == 5
