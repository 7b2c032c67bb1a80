"""Populations: trained together as alone, resumed exactly, and judged in all regimes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from experiments import accuracy_prediction, frame, model_zoo, predict_small, release_predictor
from experiments.zoo.images import images
from experiments.zoo.networks import KINDS, build
from experiments.zoo.settings import POPULATIONS, plan
from experiments.zoo.training import measure_alone, train_alone, train_batch
from gmn_opt.predict import NetworkDataset, Recipe, predict_accuracy


def test_together_as_alone() -> None:
    batch = plan("mlps", 0, 5, seed=0)
    settings = tuple(
        replace(s, steps=6 + i, dropout=0.0, optimizer=o, rate=0.01)
        for i, (s, o) in enumerate(
            zip(batch.settings, ("sgd", "momentum", "adam", "rmsprop", "adam"), strict=True)
        )
    )
    batch = replace(batch, settings=settings)
    data = images("fashion_mnist", 8)
    made = train_batch(batch, data)
    for i in range(5):
        alone = train_alone(batch, i, data)
        for name, p in alone.named_parameters():
            torch.testing.assert_close(made.params[name][i], p, rtol=1e-3, atol=1e-4)
        measured = measure_alone(alone, data)
        assert measured["test_accuracy"] == pytest.approx(
            float(made.metrics["test_accuracy"][i]), abs=5e-3
        )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_trained_by_the_batch(kind: str) -> None:
    places = {n: i for i in range(20) for n in [plan("diverse", i, 1, 0).config["kind"]]}
    batch = plan("diverse", places[kind], 2, seed=0)
    batch = replace(batch, settings=tuple(replace(s, steps=2, rate=1e-3) for s in batch.settings))
    made = train_batch(batch, images("mnist", 14))
    assert bool(made.finite.all())
    first = build(batch.config, 14)
    first.load_state_dict(
        {n: t[0] for n, t in {**made.params, **made.buffers}.items()}, strict=True
    )
    with torch.no_grad():
        assert first.eval()(torch.randn(2, 1, 14, 14)).shape == (2, 10)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """48 MLPs that were hardly trained."""
    monkeypatch.setitem(POPULATIONS, "mlps", replace(POPULATIONS["mlps"], steps=20))
    model_zoo.main(population="mlps", networks=48, batch=6, out=tmp_path / "zoo")
    return tmp_path / "zoo"


def test_a_zoo_is_resumed_exactly(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part, train = tmp_path / "part", model_zoo.train_batch
    calls: list[None] = []

    def breaking(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(model_zoo, "train_batch", breaking)
    given: dict[str, Any] = {"population": "mlps", "networks": 48, "batch": 6, "out": part}
    with pytest.raises(KeyboardInterrupt):
        model_zoo.main(**given)
    assert len(NetworkDataset.load(part)) == 24
    for change in ({}, {"resume": True, "seed": 1}):
        with pytest.raises(typer.Exit):
            model_zoo.main(**given | change)
    said = capsys.readouterr().out
    assert "Pass --resume" in said
    assert "was run otherwise" in said
    model_zoo.main(**given, resume=True, alone_count=1)
    a, b = NetworkDataset.load(zoo), NetworkDataset.load(part)
    assert a.table == b.table
    assert all(
        torch.equal(t, y.tensors[n])
        for x, y in zip(a, b, strict=True)
        for n, t in x.tensors.items()
    )
    assert frame.read_json(part / "result.json")["ratio"] > 0


def test_regimes(zoo: Path) -> None:
    data = NetworkDataset.load(zoo)
    sizes = {}
    for regime in accuracy_prediction.REGIMES:
        train, test = accuracy_prediction.parts(data, regime, 0)
        sizes[regime] = (len(train), len(test))
        assert not {r["network"] for r in train.table} & {r["network"] for r in test.table}
        assert {r["at"] for r in test.table} == {0.5 if regime == "half" else 1.0}
        if regime == "wider":
            assert max(r["width"] for r in train.table) < min(r["width"] for r in test.table)
    assert sizes["all"] == sizes["half"] == (38, 10)
    assert sizes["tenth"] == (4, 10)
    assert sizes["wider"] == (22, 24)


KINDS_BESIDE = "trees,answers,process_answers,process_scaled,process_settings"


def test_predictions_are_judged(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {"zoo": zoo, "preset": "smoke", "regimes": "all,half", "out": out}
    accuracy_prediction.main(**given, kinds="settings,graph")
    with pytest.raises(typer.Exit):
        accuracy_prediction.main(**given, kinds="trees")
    assert "Pass --resume" in capsys.readouterr().out
    accuracy_prediction.main(**given, kinds=KINDS_BESIDE, resume=True)
    fits = frame.read_json(out / "result.json")["fits"]
    assert {regime: list(kinds) for regime, kinds in fits.items()} == {
        regime: ["settings", "graph", *KINDS_BESIDE.split(",")] for regime in ("all", "half")
    }
    assert all(fit[0]["r2"] <= 1 for kinds in fits.values() for fit in kinds.values())


def test_a_predictor_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POPULATIONS, "mlps", replace(POPULATIONS["mlps"], steps=20))
    model_zoo.main(population="mlps", networks=160, batch=40, out=tmp_path / "zoo")
    release_predictor.main(zoo=[tmp_path / "zoo"], preset="smoke", out=tmp_path / "out")
    path = tmp_path / "out" / "accuracy.safetensors"
    card = frame.read_json(path.with_suffix(".json"))
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["held_out_results"]["all"]["networks"] == 24
    model = build({"kind": "mlp", "width": 8, "depth": 1}, 8)
    estimate = predict_accuracy(model, torch.zeros(1, 1, 8, 8), weights=path)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_a_new_users_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = partial(predict_small.fit_predictor, recipe=Recipe(members=1, epochs=1))
    monkeypatch.setitem(POPULATIONS, "mlps", replace(POPULATIONS["mlps"], steps=40))
    monkeypatch.setattr(predict_small, "fit_predictor", short)
    predict_small.main(preset="smoke", kinds="trees,graph", out=tmp_path)
    found = frame.read_json(tmp_path / "result.json")
    assert found["architectures"] == 16
    assert found["kinds"].keys() == {"trees", "graph", "metanets"}
