"""What is meta-trained on, what steers it, and what is held out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
import torch

from gmn_opt.meta import Window, unroll
from gmn_opt.meta.unroll import InnerState
from gmn_opt.optim import LearnedRule, RuleConfig
from tasks.base import DataTask
from tasks.classification import ImageClassification
from tasks.data.images import images_of
from tasks.data.photographs import PHOTO_SETS, TEXTURES
from tasks.data.source_code import CORPORA, source_files
from tasks.data.splits import SPLITS, random_parts
from tasks.data.tables import TABLES, table_of
from tasks.drawing import Draw
from tasks.inr_fitting import InrFitting
from tasks.registry import FAMILIES
from tasks.rescaled import RescaledTask
from tasks.suites import (
    HELD_OUT_DATA,
    HELD_OUT_KINDS,
    META_TRAIN_DATA,
    SAMPLERS,
    VALIDATION_DATA,
    MetaTrainSuite,
    held_out,
    validation,
)

#: Enough to see every family with all its options.
MANY = 3000


@cache
def samples(count: int, seed: int = 0) -> tuple[DataTask, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(MetaTrainSuite().sample(generator) for _ in range(count))


def bare(task: DataTask) -> DataTask:
    """The task within a rescaled one."""
    return task.task if isinstance(task, RescaledTask) else task


def data_of(tasks: Iterable[DataTask]) -> set[str]:
    """Names of the data sets; synthetic tasks have none."""
    return {t.data for t in map(bare, tasks) if hasattr(t, "data")}


def kinds_of(tasks: Iterable[DataTask]) -> set[str]:
    return {t.kind for t in map(bare, tasks) if hasattr(t, "kind")}


def strings_in(spec: object) -> set[str]:
    """Every string anywhere in a spec."""
    if isinstance(spec, dict):
        return set().union(*map(strings_in, spec.values()))
    if isinstance(spec, list | tuple):
        return set().union(*map(strings_in, spec))
    return {spec} if isinstance(spec, str) else set()


def test_held_out_data_never_steer_meta_training() -> None:
    for one, other in combinations((META_TRAIN_DATA, VALIDATION_DATA, HELD_OUT_DATA), 2):
        assert not set(one) & set(other)
    assert data_of(samples(MANY)) == set(META_TRAIN_DATA)
    assert data_of(validation()) <= {*META_TRAIN_DATA, *VALIDATION_DATA}
    assert data_of(held_out()) == set(HELD_OUT_DATA)
    for task in (*samples(MANY), *validation()):
        assert not strings_in(task.spec()) & {*HELD_OUT_DATA, *HELD_OUT_KINDS}


def test_held_out_kinds_of_networks_are_neither_meta_trained_nor_validated() -> None:
    seen = kinds_of([*samples(MANY), *validation()])
    assert not seen & set(HELD_OUT_KINDS)
    assert set(HELD_OUT_KINDS) < kinds_of(held_out())
    assert seen == {"mlp", "cnn", "strided", "resnet", "vit", "conv", "siren", "gpt"}


def test_held_out_data_share_no_file_photograph_or_table() -> None:
    files: dict[str, set[bytes]] = {name: set() for name in CORPORA}
    for name in CORPORA:
        for split in SPLITS:
            own = {f.read_bytes() for f in source_files(name, split)}
            assert own
            assert not own & files[name]
            files[name] |= own
    assert not files["stdlib"] & files["stdlib_held_out"]
    seen = {*PHOTO_SETS["photos"], *PHOTO_SETS["grey_photos"], *TEXTURES}
    assert not seen & set(PHOTO_SETS["photos_valid"])
    assert not seen & set(PHOTO_SETS["photos_held_out"])
    assert not set(PHOTO_SETS["photos_valid"]) & set(PHOTO_SETS["photos_held_out"])
    tables = {n: table_of(n).x["inner_train"].shape for n in TABLES}
    assert tables.pop("breast_cancer")[1] not in {shape[1] for shape in tables.values()}


def images_in(name: str) -> set[bytes]:
    data = images_of(name, 8 if name == "digits" else 28)
    return {i.numpy().tobytes() for images in data.images.values() for i in images}


def test_fashion_mnist_is_in_no_other_data_set() -> None:
    fashion = images_in("fashion_mnist")
    assert not any(fashion & images_in(name) for name in ("mnist", "textures"))


def test_validation_tasks_are_not_meta_trained_on() -> None:
    sampled = samples(MANY)
    assert not [t for t in validation() if t in sampled]
    names = [t.name for t in [*validation(), *held_out()]]
    assert len(set(names)) == len(names)

    def widest(tasks: Iterable[DataTask], size: int) -> int:
        bares = [t for t in map(bare, tasks) if isinstance(t, ImageClassification)]
        return max(max(t.hidden) for t in bares if t.size == size and t.kind == "mlp")

    assert widest(samples(MANY), 28) < widest(validation(), 28) < widest(held_out(), 28)


def test_the_records_of_held_out_tasks_keep_their_names() -> None:
    text = Path("experiments/results/comparison_default/cells.jsonl").read_text("utf-8")
    found = {json.loads(line)["task"] for line in text.splitlines()}
    assert found <= {t.name for t in held_out()}
    assert len(found) >= 13


def test_sampling_repeats_and_covers_the_distribution() -> None:
    sampled = samples(MANY)
    generator = torch.Generator().manual_seed(0)
    assert [MetaTrainSuite().sample(generator) for _ in range(100)] == list(sampled[:100])
    assert sampled[:50] != samples(50, seed=1)
    assert {t.family for t in sampled} == {*FAMILIES, RescaledTask.family}
    assert {t.family for t in map(bare, sampled)} == set(FAMILIES)
    assert sum(isinstance(t, RescaledTask) for t in sampled) / MANY == pytest.approx(0.15, abs=0.03)
    nets = [t for t in map(bare, sampled) if isinstance(t, ImageClassification)]
    assert {t.norm for t in nets} == {"none", "layer", "batch", "group"}
    assert {t.activation for t in nets} == {"relu", "gelu", "tanh", "silu"}
    assert {t.size for t in nets} == {8, 14, 28}
    assert {len(t.hidden) for t in nets if t.kind == "mlp"} == {1, 2, 3}
    assert {t.batch_size for t in nets} == {2, 8, 16, 32, 64, 128}


def test_a_suite_of_some_families_draws_nothing_else() -> None:
    suite, generator = MetaTrainSuite(("tabular",)), torch.Generator().manual_seed(0)
    assert {bare(suite.sample(generator)).family for _ in range(20)} == {"tabular"}
    with pytest.raises(ValueError, match="Unknown family 'knitting'; choose one of mlp, conv"):
        MetaTrainSuite(("knitting",))


def test_the_shares_of_families_are_shares() -> None:
    assert sum(share for _, share in SAMPLERS.values()) == pytest.approx(1)


def test_every_sampled_task_is_restored_from_json() -> None:
    for task in samples(MANY):
        assert MetaTrainSuite().restore(json.loads(json.dumps(task.spec()))) == task


def test_an_old_spec_is_restored() -> None:
    old = {
        "task": "image_classification", "data": "mnist", "size": 8, "hidden": [12, 3],
        "kind": "mlp", "activation": "relu", "norm": "none", "batch_size": 64, "label_noise": 0.0,
        "pixel_noise": 0.4, "overlay": 0.0, "gain": 1.0,
    }  # fmt: skip
    task = MetaTrainSuite().restore(old)
    assert task == ImageClassification("mnist", 8, (12, 3), pixel_noise=0.4)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"task": "knitting"},
        {"task": "image_classification"},
        {"task": "rescaled", "of": {"task": "knitting"}, "scales": [1.0]},
        {**ImageClassification("mnist", 8, (3,)).spec(), "colour": 1},
        {**ImageClassification("mnist", 8, (3,)).spec(), "kind": "rnn"},
    ],
)
def test_other_specs_are_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="does not describe a task of this suite"):
        MetaTrainSuite().restore(spec)


def test_sampled_tasks_trace_and_take_a_step() -> None:
    rule = LearnedRule(RuleConfig(hidden=4, edge_hidden=2, layers=1))
    for family, (draw, _) in SAMPLERS.items():
        generator = torch.Generator().manual_seed(2)
        task = draw(Draw(generator))
        state = InnerState.initial(task, 1, generator)
        assert state.theta.shape == (1, sum(p.numel() for p in task.template.parameters()))
        with torch.no_grad():
            out = unroll(rule, Window(task, state, 1, generator, 10))
        assert bool(out.losses.isfinite().all()), family
        assert not torch.equal(out.state.theta, state.theta), family


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "digits", "textures"])
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
    if name == "textures":
        return
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


@pytest.mark.parametrize("name", TABLES)
def test_splits_of_a_table_share_no_row_number(name: str) -> None:
    table = table_of(name)
    rows = {s: len(x) for s, x in table.x.items()}
    assert all(len(table.y[s]) == n > 10 for s, n in rows.items())
    parts = random_parts(sum(rows.values()), (0.6, 0.12, 0.12))
    assert {s: len(p) for s, p in parts.items()} == rows
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(sum(rows.values())))
    assert torch.allclose(table.x["inner_train"].mean(0), torch.zeros(table.features), atol=1e-4)


def test_splits_of_pixels_are_apart() -> None:
    task = InrFitting("grey_photos", 16, (4,))
    places = [{tuple(x.tolist()) for x in task.examples(s, 1000)["x"]} for s in SPLITS]
    assert sum(map(len, places)) == len(set().union(*places)) == 16**2


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for load, arguments in ((table_of, ("iris",)), (images_of, ("digits", 8))):
        with pytest.raises(ImportError, match=r"pip install 'gmn-opt\[experiments\]'"):
            load.__wrapped__(*arguments)  # past the cache


def test_a_python_without_sources_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Only 0 source files of asyncio"):
        source_files.__wrapped__("stdlib", "test")
