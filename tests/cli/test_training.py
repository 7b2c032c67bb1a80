from __future__ import annotations

import os
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from gmn_opt.cli.contest import LEARNED, Contestant, adamw
from gmn_opt.cli.demo.data import DemoData, batches, load_demo_data
from gmn_opt.cli.demo.jobs import Job, JobError, run_jobs
from gmn_opt.cli.demo.models import MODELS, count_parameters, seeded_model
from gmn_opt.cli.demo.training import Progress, Settings, evaluate, train_run


def _warn(model: nn.Module, steps: int) -> Optimizer:
    warnings.warn("careful", UserWarning, stacklevel=1)
    return SGD(model.parameters(), lr=0.1)


def _refuse(model: nn.Module, steps: int) -> Optimizer:
    raise ValueError(f"{steps} steps are too many")


def _die(model: nn.Module, steps: int) -> Optimizer:
    os._exit(3)


@pytest.fixture(scope="module")
def data() -> DemoData:
    """A small slice: what is tested does not need more."""
    whole = load_demo_data()
    return DemoData(
        whole.train_inputs[:512],
        whole.train_labels[:512],
        whole.test_inputs[:256],
        whole.test_labels[:256],
    )


def test_bundled_images_are_inputs() -> None:
    data = load_demo_data()

    assert data.train_inputs.shape == (10_000, 1, 28, 28)
    assert data.test_inputs.shape == (2_000, 1, 28, 28)
    assert len(data.probe[1]) == 5_000
    assert abs(data.train_inputs.mean().item()) < 1e-3


def test_batches_depend_on_the_seed_alone_and_cover_every_epoch(data: DemoData) -> None:
    first = [labels for _, labels in batches(data, 128, 8, seed=1)]
    torch.rand(3)
    again = [labels for _, labels in batches(data, 128, 8, seed=1)]
    other = [labels for _, labels in batches(data, 128, 8, seed=2)]

    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(torch.stack(first), torch.stack(other))
    for epoch in (first[:4], first[4:]):
        assert torch.equal(torch.cat(epoch).bincount(), data.train_labels.bincount())


def test_batch_size_out_of_range(data: DemoData) -> None:
    with pytest.raises(ValueError, match="1 to 512, got 513"):
        next(batches(data, 513, 1, seed=0))


@pytest.mark.parametrize(("name", "count"), [("mlp", 101_770), ("cnn", 12_810)])
def test_models(name: str, count: int) -> None:
    spec = MODELS[name]
    before = torch.get_rng_state()
    outputs = seeded_model(spec, 0)(torch.zeros(2, 1, 28, 28))

    assert outputs.shape == (2, 10)
    assert count_parameters(spec) == count
    assert torch.equal(torch.get_rng_state(), before)


def test_run_learns_repeats_itself_and_is_measured(data: DemoData) -> None:
    seen: list[Progress] = []
    settings = Settings(steps=25, probes=5)
    runs = [train_run(MODELS["mlp"], adamw(3e-3), data, 0, settings, seen.append) for _ in range(2)]

    assert runs[0].probe_steps == [0, 5, 10, 15, 20, 25]
    assert runs[0].probe_losses == runs[1].probe_losses
    assert runs[0].batch_losses == runs[1].batch_losses
    assert len(runs[0].batch_losses) == 25
    assert runs[0].final_loss < 0.7 * runs[0].probe_losses[0]
    assert runs[0].test_accuracy > 0.5
    assert runs[0].seconds > 0
    assert [p.step for p in seen[:25]] == list(range(1, 26))


@pytest.mark.parametrize("contestant", LEARNED, ids=lambda c: c.name)
@pytest.mark.parametrize("model", list(MODELS))
def test_learned_contestants_train_both_models(
    data: DemoData, model: str, contestant: Contestant
) -> None:
    run = train_run(MODELS[model], contestant, data, 0, Settings(steps=10))

    assert run.final_loss < run.probe_losses[0]
    assert run.warnings == []


def test_contestants_start_alike(data: DemoData) -> None:
    a, b = (
        train_run(MODELS["mlp"], adamw(rate), data, 3, Settings(steps=2)) for rate in (1e-3, 1e-2)
    )

    assert a.probe_losses[0] == b.probe_losses[0]
    assert a.batch_losses[0] == b.batch_losses[0]
    assert a.batch_losses[1] != b.batch_losses[1]


def test_warnings_of_a_run_are_kept_not_printed(data: DemoData) -> None:
    run = train_run(MODELS["mlp"], Contestant("w", "W", _warn), data, 0, Settings(steps=1))

    assert run.warnings == ["careful"]


def test_evaluate_restores_the_mode(data: DemoData) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Dropout(0.5)).train()
    loss = evaluate(model, data.test_inputs, data.test_labels)

    assert model.training
    assert loss == evaluate(model, data.test_inputs, data.test_labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_raises_is_named(workers: int) -> None:
    jobs = [Job("mlp", Contestant("r", "Refuser", _refuse), 7)]
    with pytest.raises(JobError, match="Refuser on mlp, seed 7: ValueError: 5 steps are too many"):
        list(run_jobs(jobs, Settings(5), lambda progress: None, workers=workers))


def test_a_process_that_dies_is_noticed() -> None:
    jobs = [Job("mlp", Contestant("d", "Dier", _die), 0)]
    with pytest.raises(JobError, match="terminated abruptly.*try --workers 1"):
        list(run_jobs(jobs, Settings(5), lambda progress: None, workers=1))
