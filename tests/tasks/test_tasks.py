"""The contract that every task keeps, and every class of tasks in the table."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from inspect import isabstract
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import tasks as package
from gmn_opt.meta import Split, Task, unroll
from gmn_opt.meta.unroll import InnerState, flat_gradients
from gmn_opt.metanet import blocked
from gmn_opt.optim import LearnedRule, RuleConfig
from tasks.autoencoding import ImageAutoencoding
from tasks.base import DataTask
from tasks.classification import ImageClassification, PatchClassification
from tasks.data.photographs import photo_pieces
from tasks.data.splits import SPLITS
from tasks.inr_fitting import InrFitting
from tasks.language import SourceCode
from tasks.registry import FAMILIES
from tasks.rescaled import RescaledTask
from tasks.suites import MetaTrainSuite, held_out, validation
from tasks.synthetic import Rosenbrock, TeacherStudent
from tasks.tabular import Tabular

#: One or more of every task class and every kind of network. A new class needs a row.
TABLE: list[DataTask] = [
    ImageClassification("mnist", 8, (6,), batch_size=8),
    ImageClassification(
        "digits", 8, (5, 4), norm="layer", activation="tanh", batch_size=4,
        label_noise=0.5, pixel_noise=0.3, overlay=0.4, gain=1.5,
    ),
    ImageClassification("mnist", 14, (3, 4), kind="cnn", activation="silu", batch_size=4),
    ImageClassification("mnist", 8, (3,), kind="cnn", norm="batch", batch_size=4),
    ImageClassification("textures", 8, (4, 3), kind="strided", norm="group", batch_size=4),
    ImageClassification("mnist", 8, (3, 3), kind="resnet", norm="batch", batch_size=4),
    ImageClassification("digits", 8, (4, 6), kind="resnet", norm="group", batch_size=3),
    PatchClassification("mnist", 8, 4, batch_size=4),
    PatchClassification("mnist", 8, 4, class_token=True, activation="gelu", batch_size=3),
    PatchClassification("mnist", 8, 4, kind="mixer", batch_size=4),
    ImageAutoencoding("mnist", 8, (6, 3), batch_size=4, norm="layer"),
    ImageAutoencoding("mnist", 8, (3, 4), kind="conv", pixel_noise=0.2, batch_size=4),
    ImageAutoencoding("mnist", 8, (3, 4), kind="unet", pixel_noise=0.2, batch_size=3),
    InrFitting("photos", 16, (6, 5), batch_size=16),
    InrFitting("grey_photos", 16, (6,), kind="fourier", frequency=1.0, batch_size=16, first=59),
    SourceCode("stdlib", 4, length=6, batch_size=3),
    SourceCode("stdlib", 6, length=5, batch_size=3, tied=True),
    SourceCode("stdlib", 4, kind="gru", length=4, batch_size=3, alphabet="ascii"),
    Tabular("wine", (5,), batch_size=8),
    Tabular("diabetes", (), batch_size=8, feature_noise=0.2),
    TeacherStudent(5, 2, condition=10.0),
    TeacherStudent(5, 2, (4,), teacher=(3,), seed=2),
    TeacherStudent(4, 3, (5,), activation="identity"),
    Rosenbrock(4),
    RescaledTask(ImageClassification("mnist", 8, (6,), batch_size=8), (2.0,)),
    RescaledTask(Tabular("iris", (5,), batch_size=8), (2.0, 0.5, 1.5, 3.0)),
]  # fmt: skip
rows = pytest.mark.parametrize("task", TABLE, ids=lambda t: t.name)
SOURCE = MetaTrainSuite()


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

    ours = {c for c in below(Task) if c.__module__.startswith("tasks.") and not isabstract(c)}
    assert {type(task) for task in TABLE} == ours
    assert {c.family for c in ours if issubclass(c, DataTask)} == {*FAMILIES, RescaledTask.family}


@rows
def test_a_task_is_restored_from_json(task: Task) -> None:
    again = SOURCE.restore(json.loads(json.dumps(task.spec())))
    assert again == task
    assert again.spec() == task.spec()
    assert again.name == task.name


@rows
@pytest.mark.parametrize("split", SPLITS)
def test_batches_lead_with_the_count_and_repeat(task: Task, split: Split) -> None:
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
def test_a_batch_leaves_the_data_and_the_random_state_alone(task: Task) -> None:
    state = torch.random.get_rng_state()
    first = task.batch("inner_train", 2, generator(5))
    for t in first.values():
        t.zero_()
    assert any(t.any() for t in task.batch("inner_train", 2, generator(5)).values())
    task.initial_params(2, generator())
    _ = task.template, task.graph
    assert torch.equal(torch.random.get_rng_state(), state)


@rows
def test_initial_networks_are_independent_and_repeat(task: Task) -> None:
    params, again = (task.initial_params(2, generator(1)) for _ in range(2))
    assert {n: tuple(p.shape[1:]) for n, p in params.items()} == dict(task.graph.shapes)
    assert all(torch.equal(p, again[n]) for n, p in params.items())
    assert any(not torch.equal(p[0], p[1]) for p in params.values())
    assert not any(p.requires_grad for p in params.values())


@rows
def test_the_loss_is_a_finite_scalar_with_gradients(task: Task) -> None:
    params = task.initial_params(1, generator())
    batch = {n: t[0] for n, t in task.batch("inner_train", 1, generator()).items()}
    leaves: Mapping[str, Tensor] = {n: p[0].requires_grad_() for n, p in params.items()}
    loss = task.loss(leaves, batch)
    assert loss.shape == ()
    grads = torch.autograd.grad(loss, list(leaves.values()))
    assert all(bool(g.isfinite().all()) for g in grads)
    assert any(bool(g.any()) for g in grads)


def doubled(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.double() if t.is_floating_point() else t for n, t in batch.items()}


@rows
def test_vectorized_losses_and_derivatives_equal_plain_ones(task: Task) -> None:
    """To 1e-10 in float64, second derivatives (products with the Hessian) included."""
    state = InnerState.initial(task, 2, generator()).to("cpu", torch.float64)
    batch = doubled(task.batch("inner_train", 2, generator(2)))
    layout = blocked(task.graph)
    direction = torch.randn(state.theta.shape, dtype=torch.float64, generator=generator(3))
    theta = state.theta.clone().requires_grad_()
    grads, losses = flat_gradients(task, second_order=True)(theta, batch)
    (products,) = torch.autograd.grad((grads * direction).sum(), theta)
    for k in range(2):
        own = {n: t[k] for n, t in batch.items()}
        flat = state.theta[k].clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            loss = task.loss(layout.unflatten(flat), own)
        (grad,) = torch.autograd.grad(loss, flat, create_graph=True)
        (product,) = torch.autograd.grad((grad * direction[k]).sum(), flat, materialize_grads=True)
        for found, expected in ((losses[k], loss), (grads[k], grad), (products[k], product)):
            scale = float(expected.detach().abs().max().clamp_min(1))
            assert float((found - expected).detach().abs().max()) < 1e-10 * scale


@rows
def test_adamw_reduces_the_loss(task: DataTask) -> None:
    theta = InnerState.initial(task, 1, generator()).theta.requires_grad_()
    outer = torch.optim.AdamW([theta], lr=0.02)
    batch = task.batch("inner_train", 1, generator(1))
    losses = []
    for _ in range(8):
        theta.grad, loss = flat_gradients(task).interpreted(theta.detach(), batch)
        losses.append(float(loss))
        outer.step()
    assert losses[-1] < 0.97 * losses[0]


@rows
def test_the_graph_holds_on_the_real_network(task: Task) -> None:
    assert task.graph.verify(task.template, *task.example_inputs()) < 1e-10
    without = isinstance(task, Rosenbrock) or not getattr(task, "hidden", True)
    assert task.graph.coverage() == 0 if without else task.graph.coverage() > 0.8


@rows
def test_examples_are_fixed_and_judged(task: DataTask) -> None:
    params = {n: p[0] for n, p in task.initial_params(1, generator()).items()}
    seen = []
    for split in SPLITS:
        examples, again = (task.examples(split, 6) for _ in range(2))
        assert all(torch.equal(t, again[n]) and len(t) <= 6 for n, t in examples.items())
        loss = task.loss(params, examples)
        assert bool(loss.isfinite())
        seen.append(examples["x"])
        output = torch.func.functional_call(task.template, params, task.inputs(examples))
        share = task.accuracy(output, examples)
        classes = isinstance(task, ImageClassification | PatchClassification | SourceCode)
        if classes:
            assert share is not None
        assert share is None or 0 <= float(share) <= 1
    if not isinstance(task, Rosenbrock):
        assert not any(torch.equal(seen[0], x) for x in seen[1:])


@rows
@pytest.mark.parametrize("second_order", [False, True])
def test_a_rule_learns_from_it(task: Task, second_order: bool) -> None:
    rule = LearnedRule(RuleConfig(hidden=4, edge_hidden=2, layers=1))
    state = InnerState.initial(task, 2, generator())
    out = unroll(rule, task, state, 2, generator(), 10, second_order)
    out.meta_loss.backward()
    assert out.losses.shape == (3, 2)
    assert bool(out.losses.isfinite().all())
    assert not torch.equal(out.state.theta, state.theta)
    gradients = [p.grad for p in rule.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert any(bool(g.any()) for g in gradients)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rnn"}, "Unknown kind 'rnn'"),
        ({"activation": "swish"}, "Unknown activation 'swish'.*relu, gelu"),
        ({"data": "cats"}, "Unknown data 'cats'; choose one of mnist, fashion_mnist"),
        ({"hidden": (4, 0)}, "widths must be positive, received \\(4, 0\\)"),
        ({"batch_size": 0}, "must be positive, received"),
        ({"label_noise": 1.5}, "a share from 0 to 1, received 1.5"),
        ({"norm": "batch"}, "Unknown norm 'batch' for kind='mlp'; choose one of none, layer"),
        ({"kind": "cnn", "norm": "layer"}, "Unknown norm 'layer' for kind='cnn'"),
        ({"kind": "cnn", "hidden": (4, 4, 4, 4)}, "leave nothing of 8x8"),
    ],
)
def test_meaningless_settings_are_refused(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"data": "mnist", "size": 8, "hidden": (4,), **change}
    with pytest.raises(ValueError, match=message):
        ImageClassification(**fields)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PatchClassification("mnist", 8, 4, kind="swin"), "Unknown kind 'swin'"),
        (lambda: PatchClassification("mnist", 8, 4, patch=3), "side 3 do not tile images of 8"),
        (lambda: PatchClassification("mnist", 8, 5), "2 heads cannot share a width of 5"),
        (lambda: ImageAutoencoding("mnist", 14, (4, 4), "conv"), "14 pixels cannot be halved 2"),
        (lambda: ImageAutoencoding("mnist", 8, (4,), norm="batch"), "Unknown norm .*'batch'"),
        (lambda: InrFitting("cats", 16, (4,)), "Unknown photographs 'cats'; choose one of photos"),
        (lambda: InrFitting("photos", 4, (4,)), "size is at least 8, received 4"),
        (lambda: InrFitting("photos", 16, (4,), first=60), "0 to 59, received first=60"),
        (lambda: SourceCode("bible", 4), "Unknown corpus 'bible'; choose one of stdlib"),
        (lambda: SourceCode("stdlib", 4, alphabet="greek"), "Unknown alphabet 'greek'"),
        (lambda: SourceCode("stdlib", 5), "2 heads cannot share a width of 5"),
        (lambda: SourceCode("stdlib", 4, 2, kind="gru"), "one layer, received depth=2"),
        (lambda: SourceCode("stdlib", 4, kind="gru", tied=True), "Only a GPT has a tied output"),
        (lambda: Tabular("housing", (4,)), "Unknown table 'housing'; choose one of diabetes"),
        (lambda: TeacherStudent(4, condition=0.5), "at least 1, received 0.5"),
        (lambda: TeacherStudent(4, activation="swish"), "'swish'.*identity"),
        (lambda: Rosenbrock(1), "at least 2 dimensions, received 1"),
        (lambda: RescaledTask(Rosenbrock(), (-1.0,)), "positive numbers, received \\(-1.0,\\)"),
        (lambda: RescaledTask(Rosenbrock(), (1.0, 2.0)).build(), "2 scales for 1 parameters"),
    ],
)  # fmt: skip
def test_meaningless_settings_of_other_tasks_are_refused(
    build: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_rescaling_keeps_the_function_and_divides_the_parameters() -> None:
    plain = Tabular("iris", (5,), batch_size=8)
    task = RescaledTask(plain, (2.0, 0.5, 1.5, 3.0))
    params, own = plain.initial_params(1, generator()), task.initial_params(1, generator())
    for (name, p), scale in zip(params.items(), task.scales, strict=True):
        assert torch.allclose(own[f"network.{name}"] * scale, p)
    batch = task.examples("test", 8)
    first = plain.loss({n: v[0] for n, v in params.items()}, batch)
    second = task.loss({n: v[0] for n, v in own.items()}, batch)
    assert torch.allclose(first, second)


def test_every_network_fits_a_piece_of_its_own() -> None:
    task = InrFitting("grey_photos", 16, (4,), first=58, batch_size=200)
    batch = task.batch("inner_train", 3, generator())
    pieces = photo_pieces("grey_photos", 16)
    column = ((batch["x"] + 1) * 8).long()
    for k, number in enumerate((58, 59, 0)):
        row, place = column[k].unbind(-1)
        assert torch.equal(batch["y"][k, :, 0], pieces[number, 0, row, place])


def test_targets_of_language_are_the_symbols_one_place_later() -> None:
    batch = SourceCode("stdlib", 4, length=6).batch("test", 2, generator())
    assert torch.equal(batch["x"][..., 1:], batch["y"][..., :-1])


def test_a_tied_table_has_one_name_and_the_gradients_of_both_uses() -> None:
    task = SourceCode("stdlib", 6, length=5, batch_size=3, tied=True)
    network = task.build()
    names = [name for name, _ in network.named_parameters()]
    assert "embed.weight" in names
    assert not {"head.weight", "head.bias"} & {*names, *task.graph.shapes}
    assert set(names) == set(task.graph.shapes)
    batch = {n: t[0] for n, t in task.batch("inner_train", 1, generator()).items()}
    task.judge(network(batch["x"]), batch).backward()
    layout = blocked(task.graph)
    theta = layout.flatten(dict(network.named_parameters())).detach()
    assert theta.numel() == sum(p.numel() for p in network.parameters())
    grads, _ = flat_gradients(task)(theta[None], {n: t[None] for n, t in batch.items()})
    for name, grad in layout.unflatten(grads[0]).items():
        own = network.get_parameter(name).grad
        assert own is not None
        assert torch.allclose(grad, own, atol=1e-6)
    table = network.get_parameter("embed.weight").grad
    assert table is not None
    assert bool(table.any(1).all())  # the output layer reads also the rows that no input names
    assert len(batch["x"].unique()) < len(table)


def test_a_linear_student_reaches_the_noise_of_its_teacher() -> None:
    task = TeacherStudent(4, 2, target_noise=0.3, batch_size=4000)
    batch = {n: t[0] for n, t in task.batch("inner_train", 1, generator()).items()}
    solution = torch.linalg.lstsq(batch["x"], batch["y"]).solution
    assert float(task.judge(batch["x"] @ solution, batch)) == pytest.approx(0.09, rel=0.05)
    assert float(batch["y"].var()) == pytest.approx(1.09, rel=0.1)


def test_rosenbrock_is_zero_at_its_minimum_alone() -> None:
    task = Rosenbrock(3, displacement=0.0)
    batch = {"x": torch.zeros(1, 3)}
    assert float(task.loss({"place": torch.ones(3)}, batch)) == 0
    assert float(task.loss({"place": torch.tensor([0.0, 1.0, 0.0])}, batch)) == pytest.approx(
        (10 * 1 + 1 + 10 * 1 + 0) / 2
    )


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
