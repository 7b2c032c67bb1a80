from __future__ import annotations

import io

import pytest
from rich.console import Console

from gmn_opt.cli.demo.contestants import LEARNED, RATES, adamw
from gmn_opt.cli.demo.jobs import Job
from gmn_opt.cli.demo.ledger import Ledger, clock
from gmn_opt.cli.demo.live import LiveView, PlainView, View, make_view
from gmn_opt.cli.demo.sparkline import sparkline
from gmn_opt.cli.demo.training import Progress, RunResult

JOBS = [
    Job(model, contestant, 0)
    for model in ("mlp", "cnn")
    for contestant in (*LEARNED, *map(adamw, RATES))
]


def console_of(*, terminal: bool, encoding: str = "utf-8") -> tuple[Console, io.TextIOWrapper]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=80, force_terminal=terminal, color_system=None)
    return console, stream


def play(view: View) -> None:
    with view:
        view.expect(JOBS)
        for step in range(1, 11):
            for job in JOBS:
                name = job.contestant.name
                view.progress(Progress(job.model, name, 0, step, 2.0 / step))
        for job in JOBS:
            name = job.contestant.name
            view.done(RunResult(job.model, name, 0, [2.0], [0, 10], [2.0, 0.25], 0.8, 1, 1, 1))


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(stream.encoding)


def test_plain_lines_elsewhere() -> None:
    console, stream = console_of(terminal=False)
    view = make_view(console, 10)
    play(view)
    lines = written(stream).splitlines()

    assert isinstance(view, PlainView)
    assert len(lines) == len(JOBS)
    assert " ".join(lines[0].split()) == "1/16 mlp gmn seed 0 train 0.2500 test 80.0% 1.0 s"
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_live_view_fits_and_prints_what_the_terminal_can(encoding: str) -> None:
    console, stream = console_of(terminal=True, encoding=encoding)
    view = make_view(console, 10)
    assert isinstance(view, LiveView)
    play(view)
    assert written(stream)  # and nothing that the encoding lacks

    with console.capture() as capture:
        console.print(view._render())
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("MLP 784-128-10", "GMN rule, metanet frozen", "5/5", "0.2500", "100%"):
        assert text in shown


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_view(console_of(terminal=True)[0], 10), PlainView)


def test_ledger_counts_work_and_guesses_the_rest() -> None:
    ledger = Ledger(10)
    assert ledger.share == 0
    assert ledger.time_left == ""

    ledger.expect(JOBS)
    for job in JOBS[:8]:
        ledger.update(job.model, job.contestant.name, 0, 10)
    assert 0 < ledger.share < 0.5
    assert ledger.time_left.endswith("left")


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 125, -3)] == ["0:00", "1:00", "2:05", "0:00"]


def test_sparkline() -> None:
    points = [(0.25, 8.0), (0.5, 4.0), (0.75, 1.0)]

    assert sparkline(points, 4, 1.0, 8.0) == "█▆▁ "
    assert sparkline(points, 4, 1.0, 8.0, unicode=False).isascii()
    assert sparkline([(1.0, float("nan"))], 2, 1.0, 8.0) == " █"
    assert sparkline([(0.5, 1.0)], 2, 1.0, 1.0) == "█ "
