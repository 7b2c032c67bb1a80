"""A slow trace says what it does, to somebody at a terminal and to nobody else."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from gmn_opt.graph import trace
from gmn_opt.graph.progress import progress_line


class Screen(io.StringIO):
    """A file that says whether it is a terminal."""

    def __init__(self, terminal: bool = True) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def console(screen: Screen) -> Console:
    return Console(file=screen, width=80, force_terminal=True, force_interactive=True)


def until_shown(screen: Screen, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in screen.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_line_appears_after_a_while_and_is_wiped_out() -> None:
    screen = Screen()
    with progress_line(console=console(screen), delay=0.05) as say:
        say("first [0]")
        assert screen.getvalue() == ""
        until_shown(screen, "first [0]")
        say("then [red]")
        until_shown(screen, "then [red]")
    shown = screen.getvalue()
    assert shown.index("first [0]") < shown.index("then [red]")
    assert shown.rstrip().endswith("\x1b[2K")  # an erased line


def test_what_is_quick_says_nothing() -> None:
    screen = Screen()
    with progress_line(console=console(screen), delay=60) as say:
        say("unseen")
    assert screen.getvalue() == ""


def test_it_is_taken_away_when_something_fails() -> None:
    screen = Screen()

    def fail() -> None:
        with progress_line(console=console(screen), delay=0) as say:
            say("dividing")
            until_shown(screen, "dividing")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert screen.getvalue().rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize(("wanted", "terminal"), [(False, True), (True, False)])
def test_only_terminals_are_written_to(wanted: bool, terminal: bool) -> None:
    screen = Screen(terminal)
    with progress_line(wanted, console(screen), delay=0) as say:
        say("unseen")
        time.sleep(0.05)
    assert screen.getvalue() == ""


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal that traces write to, almost at once."""
    found = Screen()
    inner = progress_line

    def watched(wanted: Any = True) -> Any:
        return inner(wanted, console(found), delay=0.02)

    monkeypatch.setattr("gmn_opt.graph.api.progress_line", watched)
    return found


class Slow(nn.Linear):
    """A layer that takes until a text is shown."""

    text = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.text:
            until_shown(self.screen, self.text)
        return super().forward(x)

    def until(self, screen: Screen, text: str) -> None:
        self.screen, self.text = screen, text


def test_a_slow_trace_names_its_layers(screen: Screen) -> None:
    first, last = Slow(2, 3), Slow(3, 1)
    model = nn.Sequential(first, nn.Tanh(), last)
    x = torch.randn(1, 2)
    graph = trace(model, x, verify=False, progress=False)
    assert screen.getvalue() == ""
    first.until(screen, "Tracing Sequential: 0")
    last.until(screen, "Tracing Sequential: 2")
    assert trace(model, x, verify=False) == graph
    assert screen.getvalue().index(first.text) < screen.getvalue().index(last.text)


def test_a_function_is_told_everything() -> None:
    told: list[str] = []
    trace(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), torch.randn(1, 2), progress=told.append)
    assert told[0] == "Tracing Sequential"
    assert "Tracing Sequential: 1" in told
    assert told[-1] == "Checking the symmetries of Sequential"


def test_nobody_is_told_under_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    with progress_line(delay=0) as say:
        say("unseen")
        time.sleep(0.05)
    assert screen.getvalue() == ""


def test_pipes_stay_silent_even_where_colours_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.setattr("sys.stderr", screen)
    with progress_line(delay=0) as say:
        say("unseen")
        time.sleep(0.02)
    assert screen.getvalue() == ""


def test_a_terminal_is_the_error_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen)
    with progress_line(delay=0) as say:
        say("seen")
        until_shown(screen, "seen")
    assert "seen" in screen.getvalue()
