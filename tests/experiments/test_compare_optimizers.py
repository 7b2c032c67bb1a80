"""The comparison of optimizers, from cells to tables."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from experiments import compare_optimizers
from experiments.comparison import pool
from experiments.comparison.cells import Cell
from experiments.comparison.running import Settings, run_cell
from gmn_opt.cli.bench import contestants
from gmn_opt.cli.bench.contestants import CONTESTANTS
from gmn_opt.meta.seeding import seeded
from tasks.language import SourceCode
from tasks.suites import held_out
from tests.experiments.comparison.tiny import (
    GRIDS,
    OPTIMIZERS,
    TASKS,
    cells_of,
    compare,
    refused,
)

pytestmark = pytest.mark.usefixtures("tiny_suite")


def timeless(value: Any) -> Any:
    """Without what a clock gave."""
    times = ("seconds", "seconds_to_target", "optimizer_ms", "step_ms", "profiles", "command",
             "environment", "request")  # fmt: skip
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in times}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def test_a_comparison_from_cells_to_tables(compared: Path) -> None:
    record = json.loads((compared / "result.json").read_text())
    cells = cells_of(compared)
    # per workload: 2 learned with 2 seeds; three grids of 2, and the best with the other seed;
    # the default rate is in AdamW's grid, and has another seed of its own unless it is the best
    per_workload = [sum((c.task, c.length) == (t.name, n) for c in cells)
                    for t in TASKS for n in (5, 8)]  # fmt: skip
    assert set(per_workload) <= {13, 14}
    assert record["complete"] == 4
    for workload in record["workloads"]:
        task, length = workload["task"], workload["steps"]
        for name, entry in workload["contestants"].items():
            contestant = compare_optimizers.with_rates(
                [CONTESTANTS[n] for n in OPTIMIZERS.split(",")], GRIDS
            )
            own = next(c for c in contestant if c.name == name)
            grid = {r: cells[Cell(task, length, own.method, r, 0)]["train_loss"] for r in own.rates}
            if own.tuned:
                assert entry["rate"] == min(grid, key=lambda r: grid[r])
            losses = [
                cells[Cell(task, length, own.method, entry["rate"], s)]["train_loss"]
                for s in (0, 1)
            ]
            assert entry["train_loss"] == losses
    ratios = [
        np.mean(w["contestants"]["gmn_total_steps"]["train_loss"])
        / np.mean(w["contestants"]["muon_cosine"]["train_loss"])
        for w in record["workloads"]
    ]
    found = record["ratios"]["gmn_total_steps"]["muon_cosine"]
    assert found["train"]["value"] == pytest.approx(sum(sorted(ratios)[1:3]) / 2, rel=1e-4)
    assert found["train"]["low"] <= found["train"]["value"] <= found["train"]["high"]
    assert found["worst"] == pytest.approx(max(ratios), rel=1e-4)
    assert record["ratios"]["gmn_total_steps"].keys() == {
        "muon_cosine", "adamw_cosine", "adamw_default", "gmn_initial_total_steps"
    }  # fmt: skip
    for workload in record["workloads"]:  # who sets the target reaches it, at the latest at the end
        steps = workload["contestants"]["adamw_cosine"]["steps_to_target"]
        assert 0 < steps <= workload["steps"]
    text = (compared / "report.md").read_text()
    assert "| MLP 5, 8 px | 8 |" in text
    assert {p["unit"] for p in record["profiles"]} == {"steps", "seconds"}
    assert all((compared / name).stat().st_size > 5000 for name in ("curves.png", "profile.png"))


def test_a_cell_is_the_loop_that_a_user_would_write() -> None:
    task = TASKS[0]
    record = run_cell(task.spec(), Cell(task.name, 7, "adamw", 0.01, 3), Settings(probes=7))
    assert record is not None
    with seeded(3):
        model = task.build()
    draws = torch.Generator().manual_seed(3)
    opt = torch.optim.AdamW(model.parameters(), lr=0.01)
    minibatch = []
    for _ in range(7):
        batch = {n: t[0] for n, t in task.batch("inner_train", 1, draws).items()}
        opt.zero_grad()
        loss = task.judge(model(batch["x"]), batch)
        loss.backward()
        minibatch.append(float(loss.detach()))
        opt.step()
    assert record["minibatch"] == pytest.approx(minibatch, rel=1e-5)
    for name, split in (("train_loss", "inner_train"), ("test_loss", "test")):
        examples = task.examples(split, 2000)  # type: ignore[arg-type]
        expected = float(task.judge(model(examples["x"]), examples).detach())
        assert record[name] == pytest.approx(expected, rel=1e-5)
    assert record["curve"]["steps"] == list(range(8))
    assert not record["diverged"]


def test_every_method_trains_a_tied_language_model() -> None:
    task = SourceCode("stdlib", 8, length=6, batch_size=4, tied=True)
    for name, contestant in CONTESTANTS.items():
        rate = contestant.rates[-1] if contestant.rates else None
        cell = Cell(task.name, 6, contestant.method, rate, 0)
        settings = Settings(probes=2, judged=80, probed=80)
        record = run_cell(task.spec(), cell, settings)
        assert record is not None
        assert record["curve"]["loss"][-1] < record["curve"]["loss"][0], name
        assert record["optimizer_ms"] < record["step_ms"]
        assert not record["warnings"], name


def test_a_run_that_breaks_counts_as_infinite(tmp_path: Path) -> None:
    record = compare(
        tmp_path / "out", optimizers="adamw_cosine,adamw_default,gmn_total_steps", lengths="6",
        rates=["adamw_default=1e30", "adamw_cosine=0.01"], tasks="mnist", seeds=1,
    )  # fmt: skip
    (workload,) = record["workloads"]
    broken = workload["contestants"]["adamw_default"]
    assert broken["diverged"] == 1
    assert broken["train_loss"] == [None] or broken["train_loss"][0] > 100
    assert "AdamW 1e-3 diverged with 1 seeds" in (tmp_path / "out" / "report.md").read_text()
    assert broken["steps_to_target"] is None


def interrupted(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a cell."""
    count = iter(range(10**6))
    real: Callable[..., Any] = pool.run_cell

    def run(*arguments: Any) -> Any:
        if next(count) == after:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pool, "run_cell", run)


def test_a_stopped_comparison_goes_on(
    tmp_path: Path, compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupted(17, patch)
        with pytest.raises(typer.Exit):
            compare(out)
    first = (out / "cells.jsonl").read_bytes()
    assert len(cells_of(out)) == 17
    stopped = json.loads((out / "result.json").read_text())
    assert stopped["complete"] == 1  # the cheapest, with all that take part
    assert [w["task"] for w in stopped["workloads"]] == [TASKS[1].name]
    with (out / "cells.jsonl").open("ab") as file:
        file.write(b'{"task": "mnist8-mlp-5')  # a line that a kill cut short
    record = compare(out, resume=True)
    assert (out / "cells.jsonl").read_bytes().startswith(first)
    expected = json.loads((compared / "result.json").read_text())
    assert timeless(record) == timeless(expected)


@pytest.mark.slow
def test_a_kill_ends_the_workers_and_loses_no_cell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "experiments.compare_optimizers", "--suite", "validation",
        "--tasks", "diabetes", "--optimizers", "adamw", "--lengths", "150", "--long", "",
        "--seeds", "3", "--workers", "1", "--out", str(out),
    ]  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    line = first_line(log)
    assert line.startswith("1/6 diabetes"), line
    children = [
        int(pid.name)
        for pid in Path("/proc").iterdir()
        if pid.name.isdecimal() and parent_of(pid) == process.pid
    ]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    done = cells_of(out)
    assert 1 <= len(done) < 6
    result = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    after = cells_of(out)
    assert len(after) == 6
    assert all(after[cell] == record for cell, record in done.items())


def first_line(log: Path) -> str:
    """As soon as it is there."""
    deadline = time.monotonic() + 200
    while "\n" not in (text := log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return text.splitlines()[0]


def parent_of(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_time_that_is_over_stops_cleanly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = compare(tmp_path / "out", minutes=0.0)
    assert record["complete"] == 0
    assert (
        "4 of 4 workloads are not complete; the same command with --resume"
        in capsys.readouterr().out
    )
    task = TASKS[0]
    cell = Cell(task.name, 7, "adamw", 0.01, 3)
    assert run_cell(task.spec(), cell, Settings(), time.time() - 1) is None


def test_baselines_serve_other_weights(tmp_path: Path, compared: Path) -> None:
    out = tmp_path / "out"
    compare(out, weights="initial", baselines=compared)
    before, after = cells_of(compared), cells_of(out)
    assert before.keys() == after.keys()
    for cell, record in after.items():
        assert (record == before[cell]) == (not cell.method.startswith("gmn"))


def test_a_cell_that_raises_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(setup: contestants.Setup) -> contestants.Driver:
        raise RuntimeError("out of order")

    chosen: dict[str, Any] = {"optimizers": "adamw_default,muon_cosine_fixed", "rates": None}
    with monkeypatch.context() as patch:
        patch.setitem(contestants.METHODS, "muon_cosine", broken)
        with pytest.raises(typer.Exit) as caught:
            compare(tmp_path / "out", **chosen)
    assert caught.value.exit_code == 1
    assert "muon_cosine 0.02, seed 0: RuntimeError: out of order" in capsys.readouterr().out
    assert {c.method for c in cells_of(tmp_path / "out")} == {"adamw"}
    assert compare(tmp_path / "out", resume=True, **chosen)["complete"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "none"}, "Unknown suite 'none'; choose one of held_out, validation"),
        ({"optimizers": "adam"}, "Unknown optimizer 'adam'; choose among gmn_total_steps"),
        ({"tasks": "resnet"}, "--tasks: no task of this suite matches 'resnet'. There are mnist8"),
        ({"long": "9", "long_tasks": "gpt"}, "--long-tasks: no task of this suite matches 'gpt'"),
        ({"rates": ["adamw:0.1"]}, "--rates takes OPTIMIZER=RATE,RATE for one of adamw_default"),
        ({"rates": ["gmn_total_steps=1"]}, "--rates takes OPTIMIZER=RATE,RATE for one of"),
        ({"rates": ["adamw=fast"]}, "--rates takes positive numbers, received 'adamw=fast'"),
        ({"lengths": "0"}, "--lengths takes whole numbers"),
        ({"seeds": 0}, "--seeds is at least 1, received 0"),
        ({"probes": 0}, "--probes is at least 1"),
        ({"weights": "none"}, "No weights named 'none'"),
        ({"baselines": Path("nowhere")}, "nowhere holds no comparison; --baselines takes"),
    ],
)  # fmt: skip
def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    assert message in refused(tmp_path / "out", capsys, **options)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_run_is_refused(
    compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (compared / "cells.jsonl").read_bytes()
    assert "holds a comparison already. Go on with it by --resume" in refused(compared, capsys)
    said = refused(compared, capsys, resume=True, seed=7)
    assert "was run otherwise (seed: 2024 there, 7 here)" in said
    said = refused(compared, capsys, resume=True, weights="initial")
    assert "weights:" in said
    assert (compared / "cells.jsonl").read_bytes() == before
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "protocol.json").write_bytes((compared / "protocol.json").read_bytes())
    (torn / "cells.jsonl").write_text("nonsense\n{}\n")
    assert "Line 1 of" in refused(torn, capsys, resume=True)


def test_an_optimizer_that_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refused(tmp_path / "out", capsys, optimizers="soap,adamw,schedule_free", rates=None)
    assert said.startswith("soap and schedule_free come from the package pytorch_optimizer, which")
    assert "pip install 'gmn-opt[baselines]'" in said


def test_long_runs_of_the_held_out_suite_are_of_three_tasks() -> None:
    request = compare_optimizers.Request(
        "held_out", "", "adamw_default", (), "500,1000", "2000", compare_optimizers.LONG_TASKS, 1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compare_optimizers.SUITES, "held_out", held_out)
        plan, tasks = compare_optimizers.plan_of(request)
    assert len(tasks) == len(held_out())
    by_length = [sum(w.length == n for w in plan.workloads) for n in (500, 1000, 2000)]
    assert by_length == [len(tasks), len(tasks), 3]
    assert "gpt-128x4" in plan.workloads[-1].task
