"""The contract that every task keeps, and every class of tasks in the table."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import tasks as package
from gmn_opt.meta import Split, Task, TaskSource, unroll
from gmn_opt.meta.unroll import InnerState, flat_gradients
from gmn_opt.metanet import blocked
from gmn_opt.optim import LearnedRule, RuleConfig
from tasks.classification import ImageClassification
from tasks.suites import MetaTrainSuite, held_out, validation

SPLITS: tuple[Split, ...] = ("inner_train", "inner_valid", "outer_valid", "test")

#: One or more of every task class, with the source that restores it. A new class needs a row.
TABLE: list[tuple[Task, TaskSource]] = [
    (ImageClassification("mnist", 8, (6,), batch_size=8), MetaTrainSuite()),
    (
        ImageClassification(
            "digits", 8, (5, 4), norm="layer", activation="tanh", batch_size=4,
            label_noise=0.5, pixel_noise=0.3, overlay=0.4, gain=1.5,
        ),
        MetaTrainSuite(),
    ),
    (
        ImageClassification("mnist", 14, (3, 4), kind="cnn", activation="silu", batch_size=4),
        MetaTrainSuite(),
    ),
    (
        ImageClassification("mnist", 8, (3,), kind="cnn", norm="batch", batch_size=4),
        MetaTrainSuite(),
    ),
]  # fmt: skip
rows = pytest.mark.parametrize(("task", "source"), TABLE, ids=[t.name for t, _ in TABLE])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_task_class_is_in_the_table() -> None:
    for module in pkgutil.walk_packages(package.__path__, "tasks."):
        importlib.import_module(module.name)

    def below(cls: type) -> set[type]:
        found = {cls}
        one: type
        for one in cls.__subclasses__():
            found |= below(one)
        return found

    ours = {c for c in below(Task) if c.__module__.startswith("tasks.") and c is not Task}
    assert {type(task) for task, _ in TABLE} == ours


@rows
def test_a_task_is_restored_from_json(task: Task, source: TaskSource) -> None:
    again = source.restore(json.loads(json.dumps(task.spec())))
    assert again == task
    assert again.spec() == task.spec()
    assert again.name == task.name


@rows
@pytest.mark.parametrize("split", SPLITS)
def test_batches_lead_with_the_count_and_repeat(
    task: Task, source: TaskSource, split: Split
) -> None:
    batch, again = (task.batch(split, 3, generator(5)) for _ in range(2))
    other = task.batch(split, 3, generator(6))
    assert batch.keys() == again.keys() == other.keys()
    assert all(t.shape[0] == 3 for t in batch.values())
    assert all(torch.equal(t, again[n]) for n, t in batch.items())
    assert not all(torch.equal(t, other[n]) for n, t in batch.items())
    # networks get batches of their own
    assert not all(torch.equal(t[0], t[1]) for t in batch.values())
    assert [tuple(i.shape[1:]) for i in task.example_inputs()] == [
        tuple(i.shape[2:]) for i in task.inputs(batch)
    ]


@rows
def test_a_batch_leaves_the_data_and_the_random_state_alone(task: Task, source: TaskSource) -> None:
    state = torch.random.get_rng_state()
    first = task.batch("inner_train", 2, generator(5))
    for t in first.values():
        t.zero_()
    assert any(t.any() for t in task.batch("inner_train", 2, generator(5)).values())
    task.initial_params(2, generator())
    _ = task.template, task.graph
    assert torch.equal(torch.random.get_rng_state(), state)


@rows
def test_initial_networks_are_independent_and_repeat(task: Task, source: TaskSource) -> None:
    params, again = (task.initial_params(2, generator(1)) for _ in range(2))
    assert {n: tuple(p.shape[1:]) for n, p in params.items()} == dict(task.graph.shapes)
    assert all(torch.equal(p, again[n]) for n, p in params.items())
    assert any(not torch.equal(p[0], p[1]) for p in params.values())
    assert not any(p.requires_grad for p in params.values())


@rows
def test_the_loss_is_a_finite_scalar_with_gradients(task: Task, source: TaskSource) -> None:
    params = task.initial_params(1, generator())
    batch = {n: t[0] for n, t in task.batch("inner_train", 1, generator()).items()}
    leaves: Mapping[str, Tensor] = {n: p[0].requires_grad_() for n, p in params.items()}
    loss = task.loss(leaves, batch)
    assert loss.shape == ()
    grads = torch.autograd.grad(loss, list(leaves.values()))
    assert all(bool(g.isfinite().all()) for g in grads)
    assert any(bool(g.any()) for g in grads)


@rows
def test_vectorized_gradients_equal_plain_ones(task: Task, source: TaskSource) -> None:
    state = InnerState.initial(task, 2, generator())
    batch = task.batch("inner_train", 2, generator(2))
    grads, losses = flat_gradients(task)(state.theta, batch)
    layout = blocked(task.graph)
    for k in range(2):
        params = {n: p.requires_grad_() for n, p in layout.unflatten(state.theta[k]).items()}
        loss = task.loss(params, {n: t[k] for n, t in batch.items()})
        found = torch.autograd.grad(loss, list(params.values()))
        flat = layout.flatten(dict(zip(params, found, strict=True)))
        assert torch.allclose(losses[k], loss.detach(), rtol=1e-5)
        assert torch.allclose(grads[k], flat, rtol=1e-4, atol=1e-6)


@rows
@pytest.mark.parametrize("second_order", [False, True])
def test_a_rule_learns_from_it(task: Task, source: TaskSource, second_order: bool) -> None:
    rule = LearnedRule(RuleConfig(hidden=4, edge_hidden=2, layers=1))
    state = InnerState.initial(task, 2, generator())
    out = unroll(rule, task, state, 2, generator(), 10, second_order)
    out.meta_loss.backward()
    assert out.losses.shape == (3, 2)
    assert bool(out.losses.isfinite().all())
    assert not torch.equal(out.state.theta, state.theta)
    assert rule.block_head.weight.grad is not None
    assert bool(rule.block_head.weight.grad.any())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rnn"}, "Unknown kind 'rnn'"),
        ({"activation": "swish"}, "Unknown activation 'swish'.*relu, gelu"),
        ({"norm": "batch"}, "Unknown norm 'batch' for kind='mlp'; choose one of none, layer"),
        ({"kind": "cnn", "norm": "layer"}, "Unknown norm 'layer' for kind='cnn'"),
        ({"kind": "cnn", "hidden": (4, 4, 4, 4)}, "leave nothing of 8x8"),
    ],
)
def test_meaningless_settings_are_refused(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"data": "mnist", "size": 8, "hidden": (4,), **change}
    with pytest.raises(ValueError, match=message):
        ImageClassification(**fields)


def test_a_task_without_a_spec_says_so() -> None:
    class Nameless(ImageClassification):
        spec = Task.spec

    with pytest.raises(NotImplementedError, match="Nameless does not say how"):
        Nameless("mnist", 8, (4,)).spec()


def test_label_noise_replaces_the_share_that_it_says() -> None:
    clean = ImageClassification("mnist", 8, (4,), batch_size=4000)
    noisy = ImageClassification("mnist", 8, (4,), batch_size=4000, label_noise=0.3)
    a, b = (t.batch("inner_train", 1, generator()) for t in (clean, noisy))
    assert torch.equal(a["x"], b["x"])
    # a tenth of the random labels is right by chance
    assert float((a["y"] != b["y"]).float().mean()) == pytest.approx(0.27, abs=0.03)


def test_gain_scales_the_initial_matrices_alone() -> None:
    plain, scaled = (
        ImageClassification("mnist", 8, (4,), gain=g).initial_params(1, generator())
        for g in (1.0, 2.0)
    )
    for name, p in plain.items():
        factor = 2.0 if p.dim() > 2 else 1.0
        assert torch.allclose(scaled[name], factor * p)


@pytest.mark.parametrize("task", [*validation(), *held_out()], ids=lambda t: t.name)
def test_tasks_of_the_fixed_suites_trace(task: Task) -> None:
    assert task.graph.coverage() > 0.9
    assert sum(blocked(task.graph).edge_counts) == sum(
        p.numel() for p in task.template.parameters()
    )
