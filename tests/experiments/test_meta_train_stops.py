"""``python -m experiments.meta_train``: runs that are killed, stopped, cut short, and go on."""

from __future__ import annotations

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
from typer.testing import CliRunner

from experiments import meta_train
from gmn_opt.meta import MetaStep, MetaTrainer
from gmn_opt.meta import checkpoint as checkpoints
from gmn_opt.meta.checkpoint import load_checkpoint
from gmn_opt.optim import load_rule
from tests.experiments.meta_training import (
    ARGUMENTS,
    STEPS,
    invoke,
    log_of,
    meta_parameters,
    start,
    step_of,
)
from tests.experiments.processes import Run

ROOT = Path(__file__).parents[2]


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
        reached.append(step_of(folder))
    code, output = start(folder, "--resume", steps=steps).end()
    assert code == 0, output
    assert f"resumed at step {reached[-1]}" in output
    return reached


@pytest.mark.parametrize(
    ("kills", "steps"), [(2, 16), pytest.param(10, 200, marks=pytest.mark.long)]
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
    first, lost = ranks(folder, 2, steps=500)
    first.wait_for_a_new_checkpoint()
    first.wait_for_a_new_checkpoint()
    lost.send(signal.SIGKILL)
    code, output = first.end()
    lost.end()
    assert code == 3, output
    assert "2 processes" in output
    assert "Rank 0 of 2 waited for the others in vain" in output
    step = step_of(folder)
    assert f"The checkpoint of outer step {step} stands in {folder}" in " ".join(output.split())
    assert "Traceback" not in output
    code, output = start(folder, "--resume", "--meta-batch", "4", steps=step + 2).end()
    assert code == 0, output
    assert f"resumed at step {step}" in output
    assert log_of(folder)[-1]["step"] == step + 2


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """By the documented command, on the real tasks.

    Two processes reach what one reaches, up to rounding.
    """
    few = [*ARGUMENTS, "--meta-steps", "2", "--set", "validate_every=0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    command += ["experiments.meta_train", *few, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes" in done.stdout
    one = [*few, "--out", str(tmp_path / "one"), "--meta-batch", "4"]
    alone = CliRunner().invoke(meta_train.app, one)
    assert alone.exit_code == 0, alone.output
    a, b = (load_rule(tmp_path / n / "weights.safetensors").state_dict() for n in ("one", "two"))
    assert all(torch.allclose(t, b[name], atol=1e-3) for name, t in a.items())


def test_a_request_to_stop_leaves_a_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path / "run", steps=500)
    process.wait_for_a_new_checkpoint()
    process.wait_for_a_new_checkpoint()
    process.send(signal.SIGTERM)
    code, output = process.end()
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
    assert step_of(tmp_path) == 3
    again = invoke(*rare, "--resume")
    assert again.exit_code == 0, again.output
    assert "resumed at step 3" in again.output
    assert meta_parameters(tmp_path) == meta_parameters(whole)
    assert (tmp_path / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    assert log_of(tmp_path) == log_of(whole)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """The second is refused, however it asks, and the first does not notice."""
    folder = tmp_path / "run"
    first = start(folder, steps=500)
    first.wait_for_a_new_checkpoint()
    for more in (["--resume"], ["--overwrite"], []):
        second = invoke(*ARGUMENTS, "--out", folder, *more)
        assert second.exit_code == 2, second.output
        assert "Another run is writing to" in second.output
    first.wait_for_a_new_checkpoint()
    first.send(signal.SIGTERM)
    code, output = first.end()
    assert code == 4, output
    step = step_of(folder)
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
