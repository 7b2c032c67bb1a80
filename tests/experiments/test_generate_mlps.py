"""The experiments on generated MLPs run, and measure what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from experiments.generate_mlps import AVERAGES, OURS, PRESETS, TRAINING, run
from experiments.generate_starts import DEFAULT, judged
from experiments.generate_starts import PRESETS as START_PRESETS
from experiments.generate_starts import Sizes as StartSizes
from experiments.generate_starts import run as run_starts
from experiments.generation.clock import Clock
from experiments.generation.flat import fit_flat, sample_flat
from experiments.generation.populations import accuracies, graph_of, initial, network, train
from experiments.zoo.images import flat_images
from gmn_opt.generate import Units
from gmn_opt.metanet import blocked


def test_smoke(tmp_path: Path) -> None:
    console = Console(quiet=True)
    record = run(PRESETS["smoke"], 0, tmp_path / "mlps", False, console)
    kinds = record["kinds"]
    assert {TRAINING, OURS, AVERAGES, "flattened, width 4, aligned"} <= kinds.keys()
    # half way between two networks one is at half of their distance from each
    assert kinds[AVERAGES]["novelty"] == pytest.approx(0.5, abs=0.1)
    assert kinds["training networks and 10% noise"]["novelty"] < 0.2
    again = run(PRESETS["smoke"], 0, tmp_path / "mlps", True, console)
    assert again["kinds"] == kinds
    starts = run_starts(START_PRESETS["smoke"], tmp_path / "mlps", 0, tmp_path / "starts", console)
    assert starts["kinds"][DEFAULT]["last_loss"] == starts["target_loss"]
    kept = json.loads((tmp_path / "starts" / "result.json").read_text())
    assert kept["kinds"] == starts["kinds"]
    assert (tmp_path / "starts" / "losses.png").stat().st_size > 1000


def test_networks_side_by_side_train_as_one_by_one() -> None:
    images = flat_images("mnist", 4, 64)
    begun = initial(2, 16, 5, seed=0)
    together = train(begun, images, 5, 1e-2, seed=1)
    model = network(16, 5)
    model.load_state_dict({n: t[0] for n, t in begun.items()})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    random = torch.Generator().manual_seed(1)
    for step in range(5):
        chosen = torch.randint(len(images.labels), (2, 64), generator=random)[0]
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 5)
        optimizer.zero_grad()
        logits = model(images.train[chosen])
        torch.nn.functional.cross_entropy(logits, images.labels[chosen]).backward()
        optimizer.step()
    for name, own in model.state_dict().items():
        torch.testing.assert_close(together[name][0], own, rtol=0, atol=1e-6)
    right = (model(images.test).argmax(1) == images.test_labels).float().mean()
    assert accuracies(together, images)[0] == right


def test_a_flattened_flow_learns_where_networks_are() -> None:
    graph = graph_of(4, 3)
    center = initial(1, 4, 3, seed=3)
    random = torch.Generator().manual_seed(0)
    near = {
        n: t + 0.01 * torch.randn(40, *t.shape[1:], generator=random) for n, t in center.items()
    }
    flat = blocked(graph).flatten(near)
    units = Units.of([(graph, flat)])
    apart = []
    for steps in (1, 300):
        field = fit_flat(units.into(graph, flat), graph, 32, steps, seed=0)
        made = sample_flat(field, units, graph, 16, 10, seed=1)
        apart.append(float((made.mean(0) - flat.mean(0)).norm() / flat.mean(0).norm()))
    assert apart[1] < 0.4 * apart[0]


def test_steps_to_a_target() -> None:
    seen = torch.tensor([[3.0, 3.0, 3.0], [1.0, 2.0, 1.0], [2.0, 1.0, 2.0]])
    found = {"losses": seen, "mean": seen.mean(1).tolist(), "rate": 1e-3}
    sizes = StartSizes(3, 20, 10)
    assert judged(found, 1.0, sizes)["steps"] == 10
    assert judged(found, 3.0, sizes)["steps"] == 0
    assert judged(found, 0.5, sizes)["steps"] is None


def test_a_clock_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 1.04, 3.0, 10.0, 10.5, 12.0))
    monkeypatch.setattr("time.process_time", lambda: next(times))
    path = tmp_path / "seconds.json"
    for resume in (False, True):
        clock = Clock(path, resume)
        clock.lap("fit", goes_on=True)
        clock.lap("judging")
        assert clock.rounded() == json.loads(path.read_text())
    assert clock.rounded() == {"fit": 1.0 + 0.5, "judging": 1.5}
