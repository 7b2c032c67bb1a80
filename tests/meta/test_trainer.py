"""The meta-training loop: resume bit by bit, averages, validation, schedule."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gmn_opt.meta import (
    Constant,
    FullBackprop,
    FullES,
    GradientEstimator,
    MetaConfig,
    MetaTrainer,
    Mixture,
    PersistentES,
    SmallRuleConfig,
    TruncatedBackprop,
    TruncatedES,
    Uniform,
)
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.meta.rules import flat_vector
from gmn_opt.meta.validation import Validation, score
from gmn_opt.meta.world import World
from gmn_opt.optim import LearnedRule, RuleConfig
from tasks.classification import ImageClassification
from tasks.suites import MetaTrainSuite, validation
from tests.meta.small_tasks import OneTask
from tests.meta.trainers import TINY, assert_same, everything

ALL: dict[str, GradientEstimator] = {
    "first_order": TruncatedBackprop(Uniform(1, 3)),
    "second_order": TruncatedBackprop(Uniform(1, 3), second_order=True, random_offset=True),
    "full": FullBackprop(chunk=3),
    "pes": PersistentES(windows=Uniform(1, 3)),
    "es": TruncatedES(windows=Uniform(1, 3)),
    "full_es": FullES(),
    "mixture": Mixture((TruncatedBackprop(Uniform(1, 3)), PersistentES()), (1.0, 0.1)),
}


@pytest.mark.parametrize("name", ALL)
def test_going_on_from_a_checkpoint_equals_never_stopping(tmp_path: Path, name: str) -> None:
    config = replace(TINY, estimator=ALL[name], validate_every=3, validation_steps=4)
    tasks = validation()[:2]
    whole = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), config, validation=tasks)
    steps = []
    for step in whole.train():
        steps.append(step)
        if step.step in (1, 4):
            save_checkpoint(tmp_path / f"{step.step}.pt", whole.state_dict())
    assert len(steps) == whole.step == config.meta_steps
    assert [s.step for s in steps if s.validation is not None] == [3, 6, 7]
    for stop in (1, 4) if name == "first_order" else (4,):
        torch.rand(17)  # the global random state must not matter
        again = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), config, validation=tasks)
        again.load_state_dict(load_checkpoint(tmp_path / f"{stop}.pt"))
        assert [s.to_dict() for s in again.train()] == [s.to_dict() for s in steps[stop:]]
        assert_same(everything(whole), everything(again))


def test_a_run_is_the_same_whichever_process_holds_it() -> None:
    """Its draws depend on seed, slot and number, not on the runs that began before it."""
    few, many = (
        MetaTrainer(MetaTrainSuite(("mlp", "tabular")), replace(TINY, runs=n)) for n in (2, 3)
    )
    for slot in (0, 1):
        assert few.runs[slot].task == many.runs[slot].task
        assert torch.equal(few.runs[slot].state.theta, many.runs[slot].state.theta)


def test_an_outer_step_averages_over_its_runs() -> None:
    """Two runs in one outer step: the mean of their gradients."""
    single = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    both = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), replace(TINY, meta_batch=2))
    gradients = []
    for _ in range(2):
        gradient, reports = single.meta_gradient()
        assert gradient is not None
        assert len(reports) == 1
        gradients.append(gradient)
        single.step += 1
    mean, reports = both.meta_gradient()
    assert mean is not None
    assert [r.slot for r in reports] == [0, 1]
    for name, g in mean.items():
        assert torch.allclose(g, 0.5 * (gradients[0][name] + gradients[1][name]), rtol=1e-5)
    step = both.meta_step()
    assert len(step.windows) == 2
    assert step.loss == pytest.approx(sum(w.loss for w in step.windows) / 2)
    assert len(step.to_dict()["windows"]) == 2


def test_no_run_rules_an_outer_step() -> None:
    """A run's meta-gradient is cut to ``run_clip`` and keeps its direction; a short one stays."""
    estimator = TruncatedBackprop(Constant(3))  # at its first step a rule is its base
    config = replace(TINY, runs=2, run_clip=0.0, estimator=estimator)
    free = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), config)
    gradients = []
    for slot in range(2):
        gradient, _ = free.meta_gradient()
        assert gradient is not None
        gradients.append(flat_vector(gradient))
        free.step = slot + 1
    short, long = sorted(float(g.norm()) for g in gradients)
    assert short < 0.9 * long
    bound = 0.5 * (short + long)
    both = MetaTrainer(
        MetaTrainSuite(("mlp", "tabular")), replace(config, meta_batch=2, run_clip=bound)
    )
    mean, _ = both.meta_gradient()
    assert mean is not None
    expected = torch.stack([g * min(1.0, bound / float(g.norm())) for g in gradients]).mean(0)
    assert torch.allclose(flat_vector(mean), expected, rtol=1e-5)


def test_a_run_starts_from_a_rule(tmp_path: Path) -> None:
    first = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    for _ in first.train():
        pass
    start = first.averaged_rule()
    warm = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY, start=start)
    for found in (warm.rule.state_dict(), warm.average):
        assert all(torch.equal(t, found[n]) for n, t in start.state_dict().items())
    assert not warm.outer.state
    assert warm.step == 0
    warm.meta_step()
    assert any(not torch.equal(p, warm.rule.state_dict()[n]) for n, p in first.average.items())
    assert all(torch.equal(p, start.state_dict()[n]) for n, p in first.average.items())
    larger = replace(TINY, rule=RuleConfig(hidden=5, edge_hidden=2, layers=1))
    with pytest.raises(ValueError, match="start from has sizes RuleConfig\\(hidden=4"):
        MetaTrainer(MetaTrainSuite(("mlp", "tabular")), larger, start=start)


def test_one_task_cannot_rule_the_score() -> None:
    assert 0.5 * (math.log(0.1) - 0.5) < score({"a": 1e-6, "b": 1.0}) < 0.5 * math.log(0.1)
    assert score({"a": 0.0, "b": 1.0}) == pytest.approx(0.5 * (math.log(0.1) - 0.5))
    assert score({"a": 0.1, "b": 20.0}) == pytest.approx(0.5 * math.log(2.0))
    assert score({"a": 0.5, "b": 2.0}) == pytest.approx(0.0)


def test_the_score_tells_any_two_rules_apart() -> None:
    """However easy the task, and however bad the rules."""
    ratios = [0.0, 1e-9, 1e-6, 1e-3, 0.05, 0.0999, 0.1, 0.5, 1.0, 19.0, 20.0, 21.0, 1e3, 1e6]
    scores = [score({"a": r}) for r in ratios]
    assert all(a < b for a, b in itertools.pairwise(scores))


@pytest.mark.parametrize("stop", [2, None])
def test_progress_is_shown_and_changes_nothing(
    stop: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    config = replace(TINY, meta_steps=4)
    plain, shown = (MetaTrainer(MetaTrainSuite(("tabular",)), config) for _ in range(2))
    expected = [s.to_dict() for s in itertools.islice(plain.train(), stop)]
    assert capsys.readouterr().err == ""
    assert [s.to_dict() for s in itertools.islice(shown.train(progress=True), stop)] == expected
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "meta-training" in printed.err
    assert f"{stop or 4}/4" in printed.err
    assert "meta-loss" in printed.err


def test_small_rules_train_too() -> None:
    config = replace(TINY, rule=SmallRuleConfig(8), estimator=PersistentES(windows=Uniform(1, 3)))
    assert MetaConfig.from_dict(config.to_dict()) == config
    trainer = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), config)
    before = [p.detach().clone() for p in trainer.rule.parameters()]
    assert all(math.isfinite(s.loss) for s in trainer.train())
    after = list(trainer.rule.parameters())
    assert sum(p.numel() for p in after) < 500
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_validation_is_repeatable_and_relative() -> None:
    """The untrained default rule scores exactly 0, every time; the best rule is kept."""
    config = replace(TINY, validate_every=2, validation_steps=30, rule=RuleConfig())
    tasks = validation()[:2]
    trainer = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), config, validation=tasks)
    assert trainer.validate() == 0.0
    assert trainer.best is not None
    assert trainer.best["step"] == 0
    with torch.no_grad():
        dict(trainer.rule.named_parameters())["block_head.bias"][0] -= 3.0  # far too small steps
    for name, p in trainer.rule.named_parameters():
        trainer.average[name].copy_(p.detach())
    assert trainer.validate() > 0.05
    assert trainer.best["score"] == 0.0
    worse, best = (trainer.averaged_rule(b).state_dict()["block_head.bias"] for b in (False, True))
    assert not torch.equal(worse, best)
    assert set(trainer.validations[-1]["ratios"]) == {t.name for t in tasks}


def test_a_diverging_rule_has_a_finite_score() -> None:
    trainer = MetaTrainer(
        MetaTrainSuite(("mlp", "tabular")),
        replace(TINY, validation_steps=4),
        validation=validation()[:1],
    )
    for name in trainer.average:
        trainer.average[name].fill_(torch.nan)
    assert math.log(20.0) < trainer.validate() < math.log(20.0) + 0.5


@pytest.mark.parametrize(
    ("reference", "loss", "ratio"),
    [(0.0, 0.0, 1.0), (0.0, 0.5, 1e6), (0.5, 0.0, 2e-9), (0.5, math.nan, 1e6), (0.5, 0.25, 0.5)],
)
def test_a_task_may_be_solved_to_the_last_digit(
    reference: float, loss: float, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Validation([], 4, reference={"a": reference})
    monkeypatch.setattr(measure, "losses", lambda *_: {"a": loss})
    found = measure.ratios(LearnedRule(), World())
    assert found["a"] == pytest.approx(ratio)
    assert math.isfinite(score(found))


def test_nothing_validated_means_no_best_rule() -> None:
    trainer = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    with pytest.raises(ValueError, match="Nothing was validated yet"):
        trainer.averaged_rule(best=True)


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    trainer = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    for _ in range(5):
        trainer.meta_step()
    trainer.averaged_rule()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_loaded_trainer_shares_nothing_with_the_state() -> None:
    first = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    for _ in range(4):
        first.meta_step()
    frozen = everything(first)
    second = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    second.load_state_dict(first.state_dict())
    for _ in range(4):
        second.meta_step()
    assert_same(everything(first), frozen)


def test_another_seed_is_another_run() -> None:
    a, b = (MetaTrainer(MetaTrainSuite(("mlp", "tabular")), replace(TINY, seed=s)) for s in (0, 1))
    assert a.meta_step() != b.meta_step()


def test_learning_rate_schedule() -> None:
    config = replace(TINY, meta_steps=100, warmup=10, cooldown=0.4, lr=1.0)
    trainer = MetaTrainer(OneTask(ImageClassification("digits", 8, (4,))), config)
    rates = []
    for _ in range(100):
        rates.append(trainer.schedule.get_last_lr()[0])
        trainer.outer.step()
        trainer.schedule.step()
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:60] == [1.0] * 50
    assert rates[60:] == pytest.approx([(100 - i) / 40 for i in range(60, 100)])


@pytest.mark.gpu
def test_a_run_moves_between_cpu_and_cuda(tmp_path: Path) -> None:
    config = replace(TINY, meta_steps=30)
    first = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), config, "cuda")
    for _ in range(4):
        first.meta_step()
    assert first.runs[0].state.theta.is_cuda
    save_checkpoint(tmp_path / "c.pt", first.state_dict())
    for device in ("cuda", "cpu"):
        second = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), config, device)
        second.load_state_dict(load_checkpoint(tmp_path / "c.pt"))
        assert second.runs[0].state.theta.device.type == device
        assert all(
            t.device.type == device
            for s in second.outer.state.values()
            for n, t in s.items()
            if n != "step"
        )
        assert second.meta_step().step == 5
