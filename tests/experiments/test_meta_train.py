"""``python -m experiments.meta_train``: whole runs, kills, and bad arguments."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from experiments import meta_train
from experiments.frame import choose_device
from experiments.plot_meta_training import app as plot_app
from experiments.plot_meta_training import plot, read_log, smooth
from gmn_opt.cli.meta_train.running import SHORT_NAMES, Wish, configure
from gmn_opt.cli.meta_train.session import VALIDATION_STEPS
from gmn_opt.meta import MetaConfig, MetaStep, MetaTrainer, World
from gmn_opt.meta import checkpoint as checkpoints
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.optim import RuleConfig, load_rule
from gmn_opt.weights import card
from tests.experiments.processes import Run

ROOT = Path(__file__).parents[2]
STEPS = 7
ARGUMENTS = ["--preset", "smoke", "--device", "cpu", "--meta-steps", str(STEPS), "--no-validate"]


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(meta_train.app, [str(a) for a in arguments])


def meta_parameters(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def log_of(folder: Path) -> list[dict[str, Any]]:
    return read_log(folder / "log.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert invoke(*ARGUMENTS, "--out", folder).exit_code == 0
    return folder


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


def start(folder: Path, *more: str, steps: int = STEPS, **environ: str) -> Run:
    """The script in a process of its own, with a checkpoint after every outer step."""
    arguments = [*ARGUMENTS, "--checkpoint-minutes", "0", "--meta-steps", str(steps), *more]
    return Run(folder, arguments, **environ)


def kill_and_resume(folder: Path, kills: int, steps: int) -> list[int]:
    """SIGKILL at random moments after a first checkpoint of each process; steps reached."""
    moments = random.Random(os.getpid())
    reached = []
    for kill in range(kills):
        process = start(folder, *(["--resume"] if kill else []), steps=steps)
        process.wait_for_a_new_checkpoint()
        time.sleep(moments.uniform(0, 0.2))
        process.send(signal.SIGKILL)
        code, output = process.end()
        assert code == -signal.SIGKILL, output
        reached.append(load_checkpoint(folder / "checkpoint.pt")["trainer"]["step"])
    code, output = start(folder, "--resume", steps=steps).end()
    assert code == 0, output
    assert f"resumed at step {reached[-1]}" in output
    return reached


@pytest.mark.parametrize(
    ("kills", "steps"), [(3, 12), pytest.param(10, 50, marks=pytest.mark.long)]
)
def test_a_killed_run_goes_on_bit_by_bit(tmp_path: Path, kills: int, steps: int) -> None:
    """SIGKILL at random moments, resume, and compare with an uninterrupted run."""
    whole = start(tmp_path / "whole", steps=steps)
    reached = kill_and_resume(tmp_path / "killed", kills, steps)
    code, output = whole.end()
    assert code == 0, output
    assert reached == sorted(reached)
    assert reached[-1] < steps
    one, two = tmp_path / "whole", tmp_path / "killed"
    assert meta_parameters(one) == meta_parameters(two)
    assert (one / "best.safetensors").read_bytes() == (two / "best.safetensors").read_bytes()
    assert log_of(one) == log_of(two)


def ranks(folder: Path, size: int, *more: str, steps: int = 12) -> list[Run]:
    """The processes that torchrun would start, so that the test can lose one of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        start(folder, *more, steps=steps, RANK=str(rank), LOCAL_RANK=str(rank),
              WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in range(size)
    ]  # fmt: skip


def test_a_lost_process_ends_the_run_with_a_checkpoint_for_any_number(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first, lost = ranks(folder, 2, steps=60)
    first.wait_for_a_new_checkpoint()
    first.wait_for_a_new_checkpoint()
    lost.send(signal.SIGKILL)
    code, output = first.end()
    lost.end()
    assert code == 3, output
    assert "2 processes" in output
    assert "Rank 0 of 2 waited for the others in vain" in output
    step = load_checkpoint(folder / "checkpoint.pt")["trainer"]["step"]
    assert f"The checkpoint of outer step {step} stands in {folder}" in " ".join(output.split())
    assert "Traceback" not in output
    code, output = start(folder, "--resume", "--meta-batch", "4", steps=step + 2).end()
    assert code == 0, output
    assert f"resumed at step {step}" in output
    assert log_of(folder)[-1]["step"] == step + 2


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """By the documented command; two processes reach what one reaches, up to rounding."""
    few = [*ARGUMENTS, "--meta-steps", "2", "--set", "validate_every=0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    command += ["experiments.meta_train", *few, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes" in done.stdout
    one = invoke(*few, "--out", tmp_path / "one", "--meta-batch", "4")
    assert one.exit_code == 0, one.output
    a, b = (load_rule(tmp_path / n / "weights.safetensors").state_dict() for n in ("one", "two"))
    assert all(torch.allclose(t, b[name], atol=1e-3) for name, t in a.items())


def test_a_request_to_stop_leaves_a_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path / "run", steps=60)
    process.wait_for_a_new_checkpoint()
    process.wait_for_a_new_checkpoint()
    process.send(signal.SIGTERM)
    code, output = process.end(60)
    assert code == 4, output
    assert "Rank 0 was told to stop. The checkpoint of outer step" in output
    load_checkpoint(tmp_path / "run" / "checkpoint.pt")


def during_step(patch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Let something happen while outer step ``number`` is made."""
    step = MetaTrainer.meta_step

    def disturbed(trainer: MetaTrainer) -> MetaStep:
        if trainer.step == number - 1:
            act()
        return step(trainer)

    patch.setattr(MetaTrainer, "meta_step", disturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_the_step_at_hand_and_goes_on_bit_by_bit(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM in the middle of a step, long before a checkpoint is due."""
    rare: list[str | Path] = [*ARGUMENTS, "--out", tmp_path, "--checkpoint-minutes", "60"]
    with monkeypatch.context() as patch:
        during_step(patch, 3, lambda: os.kill(os.getpid(), number))
        done = invoke(*rare)
    assert done.exit_code == 4, done.output
    assert "The checkpoint of outer step 3 stands in" in " ".join(done.output.split())
    assert load_checkpoint(tmp_path / "checkpoint.pt")["trainer"]["step"] == 3
    again = invoke(*rare, "--resume")
    assert again.exit_code == 0, again.output
    assert "resumed at step 3" in again.output
    assert meta_parameters(tmp_path) == meta_parameters(whole)
    assert (tmp_path / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    assert log_of(tmp_path) == log_of(whole)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """The second is refused, however it asks, and the first does not notice."""
    folder = tmp_path / "run"
    first = start(folder, steps=200)
    first.wait_for_a_new_checkpoint()
    for more in (["--resume"], ["--overwrite"], []):
        second = invoke(*ARGUMENTS, "--out", folder, *more)
        assert second.exit_code == 2, second.output
        assert "Another run is writing to" in second.output
    first.wait_for_a_new_checkpoint()
    first.send(signal.SIGTERM)
    code, output = first.end()
    assert code == 4, output
    step = load_checkpoint(folder / "checkpoint.pt")["trainer"]["step"]
    assert [r["step"] for r in log_of(folder)] == list(range(1, step + 1))


@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
def test_a_folder_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Said as it is; nothing is written in its place."""
    folder = tmp_path / "run"

    def act() -> None:
        folder.rename(tmp_path / "elsewhere")
        if how != "moved":
            shutil.rmtree(tmp_path / "elsewhere")
        if how == "replaced":
            folder.mkdir()

    with monkeypatch.context() as patch:
        during_step(patch, 2, act)
        done = invoke(*ARGUMENTS, "--out", folder, "--checkpoint-minutes", "0")
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.split())
    assert "has vanished, or was replaced" in said
    assert "Make room" not in said
    assert folder.exists() == (how == "replaced")
    assert how != "replaced" or not any(folder.iterdir())


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


def test_slices_equal_one_run(whole: Path, tmp_path: Path) -> None:
    """--minutes stops after an outer step at the latest; the last slice completes the run."""
    first = invoke(*ARGUMENTS, "--out", tmp_path, "--minutes", "0")
    assert first.exit_code == 0
    assert f"Stopped at step 1 of {STEPS}; go on with --resume" in first.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["complete"], result["validation"], result["outer_steps"]) == (False, None, 1)
    with (tmp_path / "log.jsonl").open("a") as log:  # a kill: lines after the checkpoint, one torn
        log.write(json.dumps({"step": 2, "loss": 1.0}) + '\n{"step": 3, "lo')
    second = invoke(*ARGUMENTS, "--out", tmp_path, "--resume")
    assert second.exit_code == 0, second.output
    assert "resumed at step 1" in second.output
    assert meta_parameters(tmp_path) == meta_parameters(whole)
    assert log_of(tmp_path) == log_of(whole)


def test_a_complete_run_is_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = meta_train.validation()[:1]
    monkeypatch.setattr(meta_train, "validation", lambda: tasks)
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


def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(*ARGUMENTS, "--out", tmp_path, "--minutes", "0").exit_code == 0
    old = (tmp_path / "checkpoint.pt").read_bytes()

    def full(path: Path, write: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomically", full)
        done = invoke(*ARGUMENTS, "--out", tmp_path, "--resume", "--checkpoint-minutes", "0")
    assert done.exit_code == 1
    assert "No space left on device" in done.output
    assert "go on with --resume" in done.output
    assert (tmp_path / "checkpoint.pt").read_bytes() == old
    assert invoke(*ARGUMENTS, "--out", tmp_path, "--resume").exit_code == 0
    assert meta_parameters(tmp_path) == meta_parameters(whole)


def test_moving_averages() -> None:
    assert smooth([2.0, 2.0, 2.0], 10) == pytest.approx([2.0] * 3)
    values = smooth([None, 1.0, float("nan"), 3.0], 2)
    assert values[0] != values[0]
    assert values[1:3] == [1.0, 1.0]
    assert values[3] == pytest.approx(1 + 2 * 0.5 / 0.75)
    assert smooth([1.0, 5.0], 1) == [1.0, 5.0]


def test_curves(whole: Path, tmp_path: Path) -> None:
    lines = (whole / "log.jsonl").read_text().splitlines()
    broken = json.loads(lines[3])
    broken.update(loss=None, meta_loss=None, grad_norm=None, event="non-finite")
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, json.dumps(broken), '{"step": ']))
    assert CliRunner().invoke(plot_app, [str(tmp_path)]).exit_code == 0
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    old = [json.loads(line) for line in lines]  # logs of the first release know no validation
    for record in old:
        record.pop("validation", None)
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(r) for r in old))
    assert plot(tmp_path / "log.jsonl", tmp_path / "old.png")
    assert (tmp_path / "old.png").stat().st_size > 10_000
    (tmp_path / "log.jsonl").write_text("")
    assert not plot(tmp_path / "log.jsonl", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    done = CliRunner().invoke(plot_app, [str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "There is no" in done.output


def test_choose_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="Unknown device 'mps'"):
        choose_device("mps")
