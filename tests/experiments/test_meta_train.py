"""``python -m experiments.meta_train``: whole runs, kills, and bad arguments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from experiments import meta_train
from experiments.common import choose_device
from experiments.plot_meta_training import app as plot_app
from experiments.plot_meta_training import plot, read_log, smooth
from gmn_opt.meta import checkpoint as checkpoints
from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint
from gmn_opt.optim import load_rule

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
    names = {"checkpoint.pt", "curve.png", "log.jsonl", "result.json", "weights.safetensors"}
    assert {p.name for p in whole.iterdir()} == names
    result = json.loads((whole / "result.json").read_text())
    assert result["complete"] is True
    assert result["outer_steps"] == STEPS
    assert result["config"]["meta_steps"] == STEPS
    assert result["environment"]["torch"] == torch.__version__
    assert [r["step"] for r in log_of(whole)] == list(range(1, STEPS + 1))
    assert load_rule(whole / "weights.safetensors").config.hidden == 8
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_by_bit(whole: Path, tmp_path: Path) -> None:
    """SIGKILL at a random moment, resume, and compare with the uninterrupted run."""
    command = [sys.executable, "-m", "experiments.meta_train", *ARGUMENTS]
    command += ["--checkpoint-minutes", "0", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(random.Random(os.getpid()).uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = load_checkpoint(checkpoint)["trainer"]["step"]
    assert 1 <= reached < STEPS
    done = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"resumed at step {reached}" in done.stdout
    assert meta_parameters(tmp_path) == meta_parameters(whole)
    assert log_of(tmp_path) == log_of(whole)


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
    assert found["steps"] == meta_train.VALIDATION_STEPS["smoke"]
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
    refused("Unknown device 'tpu'", *ARGUMENTS, "--device", "tpu", "--out", tmp_path)
    if not torch.cuda.is_available():
        refused("torch sees no CUDA device", *ARGUMENTS, "--device", "cuda", "--out", tmp_path)
    refused("Start without --resume", *ARGUMENTS, "--out", tmp_path / "none", "--resume")
    assert not (tmp_path / "none").exists()

    again = (*ARGUMENTS, "--out", str(tmp_path), "--resume")
    altered(whole, tmp_path, version=7)
    refused("version 7, this package reads version 1", *again)
    altered(whole, tmp_path, colour="red")
    refused("Unknown settings ['colour']", *again)
    altered(whole, tmp_path, rule={"hidden": 9, "edge_hidden": 2, "layers": 1})
    refused("hidden=9", *again)
    content = (whole / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    refused("is not a whole checkpoint", *again)
    save_checkpoint(tmp_path / "checkpoint.pt", {"model": torch.zeros(2)})
    refused("is not a checkpoint of this script", *again)


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
