"""``python -m experiments.meta_train``: what a run leaves, how it begins, and bad arguments."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.frame import choose_device
from gmn_opt.cli.meta_train.running import SHORT_NAMES, Wish, configure
from gmn_opt.cli.meta_train.session import VALIDATION_STEPS
from gmn_opt.meta import MetaConfig, World
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.optim import RuleConfig, load_rule
from gmn_opt.weights import card
from tests.experiments.meta_training import ARGUMENTS, STEPS, invoke, log_of


def test_a_run_leaves_all_its_files(whole: Path) -> None:
    names = {"checkpoint.pt", "curve.png", "log.jsonl", "result.json"}
    names |= {"weights.safetensors", "best.safetensors"}
    assert {p.name for p in whole.iterdir()} == names
    result = json.loads((whole / "result.json").read_text())
    assert result["complete"] is True
    assert result["outer_steps"] == STEPS
    assert result["config"]["meta_steps"] == STEPS
    assert result["environment"]["torch"] == torch.__version__
    assert [r["step"] for r in log_of(whole)] == list(range(1, STEPS + 1))
    assert load_rule(whole / "weights.safetensors").config.hidden == 8
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_null_reaches_the_settings_that_may_be_none() -> None:
    def changed(setting: str) -> MetaConfig:
        return configure(Wish(Path("unused"), changes=(setting,)), World())

    assert changed("first_horizon=null").first_horizon is None
    assert changed("first_horizon=7").first_horizon == 7
    for setting in ("lr=null", "horizon=null", "hidden=null"):
        with pytest.raises(ValueError, match="expected a value like .* received null"):
            changed(setting)


def test_a_run_is_never_written_over_by_accident(whole: Path, tmp_path: Path) -> None:
    for name in ("checkpoint.pt", "log.jsonl"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    done = invoke(*ARGUMENTS, "--out", tmp_path)
    assert done.exit_code == 2
    assert "holds a run already (checkpoint.pt, log.jsonl)" in done.output
    assert "--resume" in done.output
    assert (tmp_path / "checkpoint.pt").read_bytes() == (whole / "checkpoint.pt").read_bytes()
    assert (tmp_path / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    again = invoke(*ARGUMENTS, "--out", tmp_path, "--overwrite")
    assert again.exit_code == 0, again.output
    assert log_of(tmp_path) == log_of(whole)


def test_validations_are_recorded(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert [v["step"] for v in result["validations"]] == [6, STEPS]
    scores = [v["score"] for v in result["validations"]]
    assert result["best"]["score"] == min(scores)
    assert "untrained rule" in result["metric"]
    logged = [r["validation"] for r in log_of(whole) if "validation" in r]
    assert logged == scores
    state = load_checkpoint(whole / "checkpoint.pt")["trainer"]
    best = load_rule(whole / "best.safetensors").state_dict()
    assert all(torch.equal(t, best[n]) for n, t in state["best"]["average"].items())


@pytest.mark.parametrize("name", [n for n in SHORT_NAMES if n != "full"])
def test_every_estimator_can_be_asked_for(tmp_path: Path, name: str) -> None:
    done = invoke(*ARGUMENTS, "--meta-steps", "2", "--out", tmp_path, "--estimator", name)
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "result.json").read_text())["config"]
    assert config["estimator"]["name"] == SHORT_NAMES[name]
    again = invoke(*ARGUMENTS, "--meta-steps", "4", "--out", tmp_path, "--resume")
    assert again.exit_code == 2
    assert "this run asks for ['FullBackprop']" in again.output


def test_a_run_begins_with_given_weights(whole: Path, tmp_path: Path) -> None:
    weights = whole / "weights.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    begin = ("--set", "lr=0", "--from", weights, "--out", tmp_path)
    assert invoke(*ARGUMENTS, *begin, "--minutes", "0").exit_code == 0
    done = invoke(*ARGUMENTS, "--set", "lr=0", "--out", tmp_path, "--resume")
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["origin"] == {"weights": "weights", "sha256": digest}
    assert [v["step"] for v in result["validations"]] == [0, 6, STEPS]
    logged = [r["ratios"] for r in log_of(tmp_path) if "ratios" in r]
    assert logged == [v["ratios"] for v in result["validations"][1:]]
    # at a rate of 0 the weights stay what they were
    before, after = (load_rule(f / "weights.safetensors").state_dict() for f in (whole, tmp_path))
    assert all(torch.allclose(t, after[n], rtol=1e-6) for n, t in before.items())


def test_a_resumed_run_has_the_sizes_that_it_began_with(tmp_path: Path) -> None:
    begin = (*ARGUMENTS, "--set", "validate_every=0", "--set", "edges_per_batch=2000")
    first = invoke(*begin, "--out", tmp_path, "--from", "default", "--minutes", "0")
    assert first.exit_code == 0, first.output
    shipped = load_rule("default").config
    assert load_rule(tmp_path / "weights.safetensors").config == shipped != RuleConfig(8, 2, 1)
    again = invoke(*begin, "--out", tmp_path, "--resume", "--minutes", "0")
    assert again.exit_code == 0, again.output
    assert "resumed at step 1" in again.output
    origin = json.loads((tmp_path / "result.json").read_text())["origin"]
    assert origin["weights"] == "default"
    assert origin["sha256"] == card("default")["sha256"]


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    arguments = [*ARGUMENTS, "--tensorboard", "--out", str(tmp_path)]
    assert invoke(*arguments, "--minutes", "0").exit_code == 0
    assert invoke(*arguments, "--resume").exit_code == 0
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [e.step for e in losses] == list(range(1, STEPS + 1))
    assert losses[2].value == pytest.approx(log_of(tmp_path)[2]["loss"])
    assert [e.step for e in events.Scalars("validation/score")] == [6, STEPS]


def test_tensorboard_that_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = invoke(*ARGUMENTS, "--tensorboard", "--out", tmp_path)
    assert done.exit_code == 2
    assert "need the package tensorboard" in done.output
    assert not (tmp_path / "log.jsonl").exists()


def test_a_complete_run_is_validated(tmp_path: Path) -> None:
    done = invoke("--preset", "smoke", "--device", "cpu", "--meta-steps", "2", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "result.json").read_text())["validation"]
    assert found["steps"] == VALIDATION_STEPS["smoke"]
    (modes,) = found["tasks"].values()
    assert modes.keys() == {"horizon", "open"}
    expected = torch.tensor(list(modes.values())).log().mean()
    assert found["score"] == pytest.approx(float(expected))
    assert found["initial_score"] < 0.9  # nats: below the log of the loss of a blind guess


def test_another_configuration_on_resume_is_told(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes((whole / "checkpoint.pt").read_bytes())
    done = invoke(*ARGUMENTS, "--seed", "4", "--out", tmp_path, "--resume")
    assert done.exit_code == 0, done.output
    assert "Settings differ from the checkpoint's: seed 0 -> 4" in done.output


def altered(whole: Path, folder: Path, **config: Any) -> Path:
    state = load_checkpoint(whole / "checkpoint.pt")
    state["trainer"]["config"].update(config)
    save_checkpoint(folder / "checkpoint.pt", state)
    return folder


def test_bad_arguments_end_with_code_2(whole: Path, tmp_path: Path) -> None:
    def refused(message: str, *arguments: str | Path) -> None:
        done = invoke(*arguments)
        assert done.exit_code == 2, done.output
        assert message in done.output
        assert "Traceback" not in done.output

    refused("Unknown preset 'huge'; choose one of smoke, cpu, gpu", "--preset", "huge")
    refused("Unknown preset '[red]x'", "--preset", "[red]x")
    refused("Unknown estimator 'luck'; choose one of truncated", "--estimator", "luck")
    refused("There is no weights file at nowhere", *ARGUMENTS, "--from", "nowhere.safetensors")
    refused("No weights named 'luck' ship", *ARGUMENTS, "--from", "luck")
    refused("not of a learned rule", *ARGUMENTS, "--from", "inr-dilate-grey")
    refused("Give one of them", *ARGUMENTS, "--from", "default", "--resume")
    refused("--set knows no 'colour'", *ARGUMENTS, "--set", "colour=1")
    refused("expected a value like [100, 1500]", "--set", "horizon=9")
    refused("expected a value like", "--set", "estimator=9")
    refused("Unknown device 'tpu'", *ARGUMENTS, "--device", "tpu", "--out", tmp_path)
    if not torch.cuda.is_available():
        refused("torch sees no CUDA device", *ARGUMENTS, "--device", "cuda", "--out", tmp_path)
    refused("Start without --resume", *ARGUMENTS, "--out", tmp_path / "none", "--resume")
    assert not (tmp_path / "none").exists()

    again = (*ARGUMENTS, "--out", str(tmp_path), "--resume")
    altered(whole, tmp_path, version=7)
    refused("version 7, this package reads version 4", *again)
    altered(whole, tmp_path, colour="red")
    refused("Unknown settings ['colour']", *again)
    altered(whole, tmp_path, rule={"hidden": 9, "edge_hidden": 2, "layers": 1})
    refused("hidden=9", *again)
    altered(whole, tmp_path, estimator={"name": "Guess"})
    refused("Unknown estimator", *again)
    content = (whole / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    refused("is not a whole checkpoint", *again)
    save_checkpoint(tmp_path / "checkpoint.pt", {"model": torch.zeros(2)})
    refused("is not a checkpoint of this command", *again)


def test_choose_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="Unknown device 'mps'"):
        choose_device("mps")
