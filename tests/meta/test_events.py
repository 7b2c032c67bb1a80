"""Windows that are not finite and runs that diverge: counted once, and never learned from."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch

from gmn_opt.meta import MetaStep, MetaTrainer, TruncatedBackprop, Uniform
from tasks.classification import ImageClassification
from tasks.suites import MetaTrainSuite
from tests.meta.small_tasks import Explosive, OneTask
from tests.meta.trainers import TINY


def test_a_bad_window_does_not_spoil_the_others() -> None:
    config = replace(TINY, runs=3, meta_batch=3)
    whole, spoilt = (MetaTrainer(MetaTrainSuite(("mlp", "tabular")), config) for _ in range(2))
    run = spoilt.runs[1]
    run.state = replace(run.state, theta=run.state.theta * math.nan)
    gradient, reports = spoilt.meta_gradient()
    assert [r.used for r in reports] == [True, False, True]
    assert reports[1].event == "non-finite"
    expected, _ = whole.meta_gradient()
    assert gradient is not None
    assert expected is not None
    assert all(bool(g.isfinite().all()) for g in gradient.values())
    assert any(not torch.equal(g, expected[n]) for n, g in gradient.items())
    run = spoilt.runs[0]
    run.state = replace(run.state, theta=run.state.theta * math.nan)
    step = spoilt.meta_step()
    assert math.isfinite(step.grad_norm)
    assert (spoilt.counts["skipped"], spoilt.counts["non-finite"]) == (1, 1)
    assert step.event == "non-finite"
    assert step.to_dict()["loss"] is None
    assert spoilt.runs[0].number == run.number + 1


def run_explosive(cure: str, steps: int = 15) -> tuple[MetaTrainer, list[MetaStep]]:
    config = replace(
        TINY,
        meta_steps=steps,
        runs=1,
        horizon=(9, 9),
        estimator=TruncatedBackprop(Uniform(3, 3)),
    )
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
            assert following.windows[0].inner_step == 0


def test_every_event_is_counted_once() -> None:
    trainer = MetaTrainer(MetaTrainSuite(("mlp", "tabular")), TINY)
    events = [s.event for s in trainer.train()]
    assert {e: events.count(e) for e in ("finished", "diverged", "non-finite")} == {
        e: n for e, n in trainer.counts.items() if e != "skipped"
    }
    assert "finished" in events
