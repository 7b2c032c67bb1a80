from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gmn_opt
from gmn_opt.cli import app
from gmn_opt.weights import available

ROLES = ["gmn", "gmn_total_steps", "gmn_initial", "adamw_default", "adamw_best"]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Output as in a pipe of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return CliRunner()


def check_record(record: dict[str, Any], models: list[str], steps: int) -> None:
    assert record["schema"] == 1
    assert list(record["models"]) == models
    assert record["environment"]["packages"]["torch"]
    for model in record["models"].values():
        assert [standing["role"] for standing in model["standings"]] == ROLES
        assert model["verdict"].startswith("GMNOptimizer without any setting ended")
        assert set(model["ratios"]["gmn"]) == {"adamw_default", "adamw_best"}
        assert len(model["tuning"]["losses"]) >= 5
        assert len(model["runs"]) == 3 + len(model["tuning"]["losses"])
        for run in model["runs"]:
            assert len(run["batch_losses"]) == steps
            assert run["seconds"] > 0
            assert run["probe_losses"][0] == pytest.approx(2.3, abs=0.2)


def test_demo_prints_a_table_and_writes_picture_and_record(
    runner: CliRunner, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder"
    options = ["--seeds", "1", "--steps", "3", "--model", "mlp", "--workers", "0"]
    result = runner.invoke(app, ["demo", *options, "--out", str(out)])

    assert result.exit_code == 0, result.output
    for text in ("MLP 784-128-10", "GMNOptimizer, total_steps", "AdamW, best rate", "steps to"):
        assert text in result.output
    assert max(map(len, result.output.splitlines()[1:-1])) <= 80
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    check_record(json.loads((out / "result.json").read_text("utf-8")), ["mlp"], 3)


def test_demo_in_processes_prints_json(tmp_path: Path) -> None:
    """As a user would start it."""
    options = ["--quick", "--steps", "3", "--model", "mlp", "--workers", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "gmn_opt", "demo", *options, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    check_record(record, ["mlp"], 3)
    assert record["quick"]
    assert any("1 seed and 3 steps" in note for note in record["notes"])
    assert json.loads((tmp_path / "result.json").read_text("utf-8")) == record


def test_demo_refuses_a_folder_it_cannot_write(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = runner.invoke(app, ["demo", "--out", str(tmp_path / "file" / "out")])

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "error: cannot write to" in result.stderr
    assert "Traceback" not in result.output


def test_demo_refuses_an_unknown_model(runner: CliRunner) -> None:
    result = runner.invoke(app, ["demo", "--model", "rnn"])

    assert result.exit_code == 2
    assert "no model 'rnn'; there are mlp, cnn" in result.stderr


@pytest.mark.parametrize("options", [["--seeds", "0"], ["--steps", "-1"], ["--threads", "x"]])
def test_demo_refuses_bad_numbers(runner: CliRunner, options: list[str]) -> None:
    assert runner.invoke(app, ["demo", *options]).exit_code == 2


def test_a_failing_run_is_one_message(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("gmn_opt.cli.demo.training.train_step", refuse)
    result = runner.invoke(app, ["demo", "--workers", "0", "--out", str(tmp_path)])

    assert result.exit_code == 1
    assert "error: GMNOptimizer on mlp, seed 0: RuntimeError: no such luck" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "result.json").exists()


def test_env(runner: CliRunner) -> None:
    result = runner.invoke(app, ["env"])

    assert result.exit_code == 0
    for text in ("gmn-opt", gmn_opt.__version__, "torch_geometric", "cores", "devices"):
        assert text in result.output


def test_env_json(runner: CliRunner) -> None:
    result = runner.invoke(app, ["env", "--json"])
    facts = json.loads(result.stdout)

    assert facts["gmn-opt"] == gmn_opt.__version__
    assert facts["packages"]["torch"]
    assert facts["weights"] == list(available())
    assert facts["cores"] >= 1


def test_weights_list(runner: CliRunner) -> None:
    listed = json.loads(runner.invoke(app, ["weights", "list", "--json"]).stdout)
    assert [row["name"] for row in listed] == list(available())
    by_name = {row["name"]: row for row in listed}
    assert by_name["inr-dilate-grey"]["images"] == "grey"
    assert by_name["inr-neon-colour"]["images"] == "colour"
    assert by_name["default"]["images"] is None
    assert all(row["what"] and row["bytes"] > 10_000 and row["date"] for row in listed)

    head, *lines = runner.invoke(app, ["weights", "list"]).stdout.splitlines()
    assert head.split() == ["name", "images", "KiB", "date", "what", "it", "is"]
    assert [line.split()[0] for line in lines] == list(available())
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", available())
def test_weights_show_is_a_page_with_values(runner: CliRunner, name: str) -> None:
    facts = json.loads(runner.invoke(app, ["weights", "show", name, "--json"]).stdout)
    shown = runner.invoke(app, ["weights", "show", name])
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    text = " ".join(shown.stdout.split())
    assert facts["what"] in text
    assert facts["sha256"][:12] in text
    assert lines[-1] == f"all of it: gmn-opt weights show {name} --json"


def test_weights_show_of_an_unknown_name(runner: CliRunner) -> None:
    result = runner.invoke(app, ["weights", "show", "nix"])

    assert result.exit_code == 2
    assert "no weights 'nix'" in result.stderr


def test_what_is_nested_in_cards(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    card = {
        "name": "a",
        "tasks": ["mnist", "sine"],
        "training": {"steps": 3, "empty": {}, "rates": {"one": 0.123456}},
        "deep": {"tables": {"x": {"y": {}}, "z": 1}},
    }
    monkeypatch.setattr("gmn_opt.weights.available", lambda: ["a"])
    monkeypatch.setattr("gmn_opt.weights.card", lambda name: card)
    lines = runner.invoke(app, ["weights", "show", "a"]).stdout.splitlines()

    assert [" ".join(line.split()) for line in lines] == [
        "name a",
        "tasks mnist, sine",
        "training steps 3",
        "rates: one 0.1235",
        "deep tables: 2 entries",
        "all of it: gmn-opt weights show a --json",
    ]


def test_version_and_help(runner: CliRunner) -> None:
    assert runner.invoke(app, ["--version"]).stdout.strip() == gmn_opt.__version__
    shown = runner.invoke(app, ["--help"]).output
    for command in ("demo", "env", "weights"):
        assert command in shown
