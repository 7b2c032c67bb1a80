from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from gmn_opt.cli.contest import RATES
from gmn_opt.cli.demo.plot import plot_curves
from gmn_opt.cli.demo.record import dump
from gmn_opt.cli.demo.report import print_report
from gmn_opt.cli.demo.summary import BEST, DEFAULT, ModelSummary, Spread, summarize
from gmn_opt.cli.demo.training import RunResult
from gmn_opt.cli.demo.verdict import caveats, compare, verdict

MakeRuns = Callable[..., list[RunResult]]


def report_of(*summaries: ModelSummary, quick: bool = False) -> str:
    stream = io.StringIO()
    print_report(Console(width=80, file=stream), list(summaries), quick=quick)
    return stream.getvalue()


def test_roles_point_to_the_right_runs(make_runs: MakeRuns) -> None:
    summary = summarize("mlp", make_runs(), RATES)

    assert [s.role for s in summary.standings] == [
        "gmn",
        "gmn_total_steps",
        "gmn_initial",
        DEFAULT,
        BEST,
    ]
    assert summary.standing(DEFAULT).contestant == "adamw_1e-3"
    assert summary.standing(BEST).contestant == "adamw_3e-3"
    assert summary.tuning.best == 3e-3
    assert summary.target == pytest.approx(0.26)
    assert summary.seeds == [0, 1, 2]


def test_spreads_and_ratios_are_per_seed(make_runs: MakeRuns) -> None:
    summary = summarize("mlp", make_runs(), RATES)
    loss = summary.standing("gmn").loss
    ratio = summary.ratios["gmn"][BEST]

    assert loss.values == pytest.approx([0.20, 0.21, 0.22])
    assert loss.std == pytest.approx(0.01)
    assert ratio.values == pytest.approx([0.20 / 0.25, 0.21 / 0.26, 0.22 / 0.27])
    assert (ratio.low, ratio.high) == (min(ratio.values), max(ratio.values))


def test_one_seed_has_no_deviation(make_runs: MakeRuns) -> None:
    summary = summarize("mlp", make_runs(seeds=1), RATES)

    assert summary.standing("gmn").loss.std is None
    assert "±" not in report_of(summary)
    assert any("no spread" in note for note in caveats([summary], quick=False))


def test_steps_to_target(make_runs: MakeRuns) -> None:
    runs = make_runs(seeds=1, gmn=-1.8)  # falls by 1.025 a step, so it is there after two
    summary = summarize("mlp", runs, RATES)

    assert summary.standing("gmn").steps_to_target == 2
    assert summary.standing(BEST).steps_to_target == 4
    assert summary.standing("gmn_initial").steps_to_target is None


def test_verdict_follows_the_figures(make_runs: MakeRuns) -> None:
    ahead = verdict(summarize("mlp", make_runs(), RATES))
    behind = verdict(summarize("mlp", make_runs(gmn=0.45, gmn_initial=0.30), RATES))

    assert "48.8% below AdamW at its default rate (lower in 3 of 3 seeds)" in ahead
    assert "below AdamW at its best constant rate 3e-3" in ahead
    assert "95% higher than with the trained one" in ahead
    assert "above AdamW at its default rate (lower in 0 of 3 seeds)" in behind
    assert "% lower than with the trained one" in behind


def test_compare_names_draws_and_divergence() -> None:
    assert compare(Spread.of([1.001, 1.0]), "X").startswith("level with X")
    assert "diverged" in compare(Spread.of([math.inf, 0.5]), "X")


def test_divergence_is_shown_and_ranked_last(make_runs: MakeRuns) -> None:
    runs = [
        replace(run, probe_losses=[*run.probe_losses[:-1], math.nan])
        if (run.contestant, run.seed) in {("gmn", 1), ("adamw_3e-3", 0)}
        else run
        for run in make_runs()
    ]
    summary = summarize("mlp", runs, RATES)

    assert summary.tuning.best == 1e-2
    assert summary.standing("gmn").loss.mean == math.inf
    assert "diverged" in report_of(summary)


@pytest.mark.parametrize("value", [0.1, 0.7])
def test_an_edge_is_visible(make_runs: MakeRuns, value: float) -> None:
    runs = make_runs(**{"adamw_3e-2": 0.1, "adamw_1e-1": value})
    report = report_of(summarize("mlp", runs, [*RATES, 1e-1]))

    assert "(3e-2) !" in report
    assert "EXTENDED" in report


def test_report_fits_80_columns(make_runs: MakeRuns) -> None:
    report = report_of(
        summarize("mlp", make_runs(), RATES),
        summarize("cnn", make_runs(model="cnn"), RATES),
        quick=True,
    )

    assert max(map(len, report.splitlines())) <= 80
    for title in ("MLP 784-128-10", "CNN, 16 and 32", "GMNOptimizer, total_steps", "Quick run"):
        assert title in report


def test_warnings_of_runs_are_passed_on(make_runs: MakeRuns) -> None:
    runs = [replace(run, warnings=["watch out"]) for run in make_runs()]

    assert caveats([summarize("mlp", runs, RATES)], quick=False) == [
        "MLP 784-128-10: a run warned: watch out"
    ]


def test_record_is_json_without_infinities() -> None:
    record = {"a": [1.23456789, math.nan], "b": {"c": []}, "d": [{"e": math.inf}], "f": {}}

    assert json.loads(dump(record)) == {
        "a": [1.234568, None],
        "b": {"c": []},
        "d": [{"e": None}],
        "f": {},
    }


def test_picture(make_runs: MakeRuns, tmp_path: Path) -> None:
    summaries = [
        summarize("mlp", make_runs(), RATES),
        summarize("cnn", make_runs(model="cnn", **{"adamw_1e-2": 0.1}), RATES),
    ]
    plot_curves(summaries, tmp_path / "curves.png")

    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
