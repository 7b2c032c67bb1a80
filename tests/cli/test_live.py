from __future__ import annotations

import io

import pytest
from rich.console import Console

from gmn_opt.cli.contest import LEARNED, RATES, adamw
from gmn_opt.cli.demo.jobs import Job
from gmn_opt.cli.demo.live import View
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
    play(View(console, 10))
    lines = written(stream).splitlines()

    assert len(lines) == len(JOBS)
    assert " ".join(lines[0].split()) == "1/16 mlp gmn seed 0 train 0.2500 test 80.0% 1.0 s"
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bars_fit_and_print_what_the_terminal_can(encoding: str) -> None:
    console, stream = console_of(terminal=True, encoding=encoding)
    view = View(console, 10)
    assert view.live
    play(view)
    assert written(stream)  # and nothing that the encoding lacks

    with console.capture() as capture:
        console.print(view.bars.get_renderable())
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("mlp GMN rule, metanet frozen", "cnn AdamW, rates", "0.2500", "100%"):
        assert text in shown


def test_bars_move_with_the_runs_and_weigh_them() -> None:
    view = View(console_of(terminal=True)[0], 10)
    view.expect(JOBS)
    view.progress(Progress("mlp", LEARNED[0].name, 0, 5, 1.5))
    everything, first = view.bars.tasks[:2]
    assert (first.completed, first.total, first.fields["loss"]) == (5, 10, "1.5000")
    assert everything.total == 80 * (1.0 + 6.0)
    assert everything.completed == 5
    view.progress(Progress("cnn", LEARNED[0].name, 0, 2, 1.5))
    assert everything.completed == 5 + 2 * 6


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not View(console_of(terminal=True)[0], 10).live
