"""The examples in the help of commands work as they are printed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gmn_opt.cli import app
from gmn_opt.cli.frame import MOST_COLUMNS, columns, examples, examples_in

#: Those that train for longer than a test should: their arguments are read, and that is all.
LONG = ("gmn-opt demo", "gmn-opt bench", "gmn-opt inr train-editor", "gmn-opt --install-completion")


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_all_commands_are_there() -> None:
    have = {" ".join(path) for path in COMMANDS}
    assert have >= {
        "demo", "bench", "graph", "align", "predict", "meta-train", "env", "generate digits",
        "inr fit", "inr edit", "inr render", "inr gallery", "inr train-editor", "weights list",
        "weights show",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_the_examples_of_the_command(path: tuple[str, ...], runner: CliRunner) -> None:
    lines = examples_in(COMMANDS[path].epilog)
    assert any(shlex.split(line)[1 : 1 + len(path)] == list(path) for line in lines)
    shown = runner.invoke(app, [*path, "-h"])
    assert shown.exit_code == 0
    assert shown.stdout == runner.invoke(app, [*path, "--help"]).stdout
    printed = " ".join(shown.stdout.split())
    for line in lines:
        assert " ".join(line.split()) in printed
    assert max(map(len, shown.stdout.splitlines())) <= MOST_COLUMNS


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_examples_work_as_printed(path: tuple[str, ...], runner: CliRunner) -> None:
    for line in examples_in(COMMANDS[path].epilog):
        program, *arguments = shlex.split(line)
        assert program == "gmn-opt"
        if line.startswith(LONG):
            accepts(arguments)
            continue
        done = runner.invoke(app, arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}"


def accepts(arguments: list[str]) -> None:
    """Fails for arguments that the command does not take."""
    for count in (2, 1):
        path = tuple(arguments[:count])
        if path in COMMANDS:
            COMMANDS[path].make_context("x", arguments[count:])
            return
    assert arguments == ["--install-completion"]


def test_examples_and_back() -> None:
    assert examples_in(examples("a b", "c")) == ["a b", "c"]
    assert examples_in("something else") == []
    assert examples_in(None) == []


def test_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, used in ((80, 80), (100, 100), (300, MOST_COLUMNS)):
        monkeypatch.setenv("COLUMNS", str(terminal))
        assert columns() == used


def test_completion_is_offered(runner: CliRunner) -> None:
    shown = runner.invoke(app, ["--help"]).stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown
