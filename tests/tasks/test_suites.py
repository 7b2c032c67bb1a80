"""What is meta-trained on, what steers it, and what is held out."""

from __future__ import annotations

import json

import pytest
import torch

from gmn_opt.meta import unroll
from gmn_opt.meta.unroll import InnerState
from gmn_opt.optim import LearnedRule, RuleConfig
from tasks.classification import ImageClassification
from tasks.data.images import images_of
from tasks.suites import HELD_OUT_DATA, META_TRAIN_DATA, MetaTrainSuite, held_out, validation


def samples(count: int, seed: int = 0) -> list[ImageClassification]:
    generator = torch.Generator().manual_seed(seed)
    return [MetaTrainSuite().sample(generator) for _ in range(count)]


def test_held_out_data_never_steer_meta_training() -> None:
    assert not set(META_TRAIN_DATA) & set(HELD_OUT_DATA)
    assert {t.data for t in samples(500)} == set(META_TRAIN_DATA)
    assert {t.data for t in validation()} <= set(META_TRAIN_DATA)
    assert {t.data for t in held_out()} == set(HELD_OUT_DATA)


def test_validation_tasks_are_not_meta_trained_on() -> None:
    sampled = samples(500)
    assert not [t for t in validation() if t in sampled]
    widest = {
        size: max(max(t.hidden) for t in sampled if t.size == size and t.kind == "mlp")
        for size in (8, 14, 28)
    }
    assert widest[28] < max(max(t.hidden) for t in held_out() if t.size == 28)


def test_sampling_repeats_and_covers_the_distribution() -> None:
    sampled = samples(500)
    assert sampled == samples(500)
    assert sampled[:50] != samples(50, seed=1)
    assert {t.kind for t in sampled} == {"mlp", "cnn"}
    assert {t.norm for t in sampled} == {"none", "layer", "batch"}
    assert {t.activation for t in sampled} == {"relu", "gelu", "tanh", "silu"}
    assert {t.size for t in sampled} == {8, 14, 28}
    assert {len(t.hidden) for t in sampled} == {1, 2, 3}
    assert {t.batch_size for t in sampled} == {32, 64, 128}


def test_every_sampled_task_is_restored_from_json() -> None:
    for task in samples(500):
        assert MetaTrainSuite().restore(json.loads(json.dumps(task.spec()))) == task


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"task": "language"},
        {"task": "image_classification"},
        {**ImageClassification("mnist", 8, (3,)).spec(), "colour": 1},
        {**ImageClassification("mnist", 8, (3,)).spec(), "kind": "rnn"},
    ],
)
def test_other_specs_are_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="does not describe a task of this suite"):
        MetaTrainSuite().restore(spec)


def test_sampled_tasks_trace_and_take_a_step() -> None:
    rule = LearnedRule(RuleConfig(hidden=4, edge_hidden=2, layers=1))
    for task in samples(40, seed=2):
        generator = torch.Generator().manual_seed(0)
        state = InnerState.initial(task, 1, generator)
        assert state.theta.shape == (1, sum(p.numel() for p in task.template.parameters()))
        with torch.no_grad():
            out = unroll(rule, task, state, 1, generator, 10)
        assert bool(out.losses.isfinite().all()), task
        assert not torch.equal(out.state.theta, state.theta), task


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "digits"])
def test_splits_share_no_image(name: str) -> None:
    size = 8 if name == "digits" else 28
    data = images_of(name, size)
    assert data.images.keys() == data.labels.keys()
    seen: dict[bytes, str] = {}
    for split, images in data.images.items():
        assert len(images) == len(data.labels[split]) > 100
        own = {image.numpy().tobytes() for image in images}
        for image in own:
            assert seen.setdefault(image, split) == split
    sizes = [len(data.images[s]) for s in ("inner_train", "inner_valid", "outer_valid")]
    assert sizes[0] == pytest.approx(0.8 * sum(sizes), abs=2)


def test_resized_images_keep_their_places() -> None:
    for size in (8, 14):
        small, full = images_of("mnist", size), images_of("mnist", 28)
        assert all(torch.equal(small.labels[s], full.labels[s]) for s in full.labels)


def test_unknown_images_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown images 'cats'"):
        images_of("cats", 28)
    with pytest.raises(ValueError, match="8x8 images, received size=14"):
        images_of("digits", 14)
