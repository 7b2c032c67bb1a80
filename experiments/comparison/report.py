"""`report.md`: the tables of a comparison, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.comparison.cells import Plan, Workload
from experiments.comparison.statistics import Interval
from experiments.comparison.summary import (
    TARGET,
    Against,
    Profile,
    Standing,
    Table,
    target_of,
    title,
)
from gmn_opt.cli.bench.contestants import CONTESTANTS

Rows = list[list[str]]


def figure(value: float, digits: int = 3) -> str:
    """A number for people; a dash for what never came, ``diverged`` is the caller's to say."""
    if math.isnan(value) or math.isinf(value):
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"


def interval(found: Interval) -> str:
    """A figure and its range."""
    if math.isinf(found.value):
        return "diverged"
    high = "∞" if math.isinf(found.high) else f"{found.high:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {high}]"


def markdown(header: Sequence[str], rows: Rows, numbers_from: int = 1) -> str:
    """A table; columns from ``numbers_from`` on are aligned to the right."""
    rule = ["---" if i < numbers_from else "--:" for i in range(len(header))]
    lines = [list(header), rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def summary_rows(found: Mapping[str, Mapping[str, Against]], pick: str) -> tuple[list[str], Rows]:
    """Interquartile means of ratios: a row per contestant, a column per reference."""
    others = list(dict.fromkeys(o for row in found.values() for o in row))
    rows = [
        [title(one), *(interval(getattr(row[o], pick)) if o in row else "" for o in others)]
        for one, row in found.items()
    ]
    return ["", *(f"over {title(o)}" for o in others)], rows


def worst_rows(found: Mapping[str, Mapping[str, Against]]) -> tuple[list[str], Rows]:
    """Where the learned rule does worst against each reference."""
    rows = [
        [title(one), title(other), f"{a.below:.0%}", figure(a.worst), a.worst_on]
        for one, row in found.items()
        if CONTESTANTS[one].learned
        for other, a in row.items()
    ]
    return ["", "against", "not above on", "largest ratio", "on"], rows


def task_rows(
    table: Table, titles: Mapping[str, str], value: Callable[[Standing, dict[str, Standing]], str]
) -> tuple[list[str], Rows]:
    """A row per workload, a column per contestant."""
    names = list(next(iter(table.values())))
    rows = [
        [titles[on.task], str(on.length), *(value(s, standings) for s in standings.values())]
        for on, standings in table.items()
    ]
    return ["task", "steps", *map(title, names)], rows


def show_loss(s: Standing, _: Mapping[str, Standing]) -> str:
    """Mean final training loss, with the rate it was reached at."""
    edge = "*" if s.at_edge else ""
    rate = "" if s.rate is None else f" ({s.rate:g}{edge})"
    return ("diverged" if math.isinf(s.mean) else figure(s.mean, 4)) + rate


def show_test(s: Standing, _: Mapping[str, Standing]) -> str:
    """Mean test loss, and accuracy where there are classes."""
    loss = sum(s.test_loss) / len(s.test_loss)
    if math.isinf(loss):
        return "diverged"
    share = "" if s.accuracy is None else f", {sum(s.accuracy) / len(s.accuracy):.1%}"
    return figure(loss, 4) + share


def ratio_shower(reference: str) -> Callable[[Standing, dict[str, Standing]], str]:
    """Mean final training loss over that of ``reference``."""

    def text(s: Standing, standings: dict[str, Standing]) -> str:
        return figure(s.mean / standings[reference].mean)

    return text


def show_reach(s: Standing, standings: dict[str, Standing]) -> str:
    """Steps and seconds to the target."""
    steps, seconds = s.reach(target_of(standings))
    return "–" if math.isinf(steps) else f"{steps:.0f}, {seconds:.3g} s"


def show_cost(s: Standing, _: Mapping[str, Standing]) -> str:
    """Milliseconds of the optimizer's step, and of all of it."""
    return f"{s.optimizer_ms:.2g} / {s.step_ms:.2g}"


def profile_rows(profiles: Sequence[Profile]) -> tuple[list[str], Rows]:
    """Scores, best first."""
    scores = [p.scores for p in profiles]
    names = sorted(scores[0], key=lambda name: -scores[0][name])
    rows = [[title(n), *(f"{s[n]:.3f}" for s in scores)] for n in names]
    return ["", *(f"score, {p.unit}" for p in profiles)], rows


def report(
    table: Table,
    titles: Mapping[str, str],
    found: Mapping[str, Mapping[str, Against]],
    profiles: Sequence[Profile],
    facts: Mapping[str, Any],
    plan: Plan,
    notes: Sequence[str],
) -> str:
    """The whole file."""
    missing = [on for on in plan.workloads if on not in table]
    parts = ["# Comparison of optimizers\n", _account(facts, plan, missing, notes)]
    if not table:
        return "\n".join(parts)

    def add(heading: str, text: str, made: tuple[list[str], Rows], numbers_from: int = 1) -> None:
        parts.append(f"## {heading}\n\n{text}\n\n{markdown(*made, numbers_from)}")

    tasks = len({on.task for on in table})
    add(
        "Training loss",
        "Ratio of seed-mean final training losses, interquartile mean over "
        f"{len(table)} workloads ({tasks} tasks), with the 95 % range of a bootstrap over tasks "
        "and seeds. Below 1 the row is better.",
        summary_rows(found, "train"),
    )
    add("Test loss", "The same of test losses.", summary_rows(found, "test"))
    if any(CONTESTANTS[name].learned for name in found):
        add("Worst cases", "Training loss.", worst_rows(found), 2)
    if profiles:
        add(
            "Performance profile",
            f"Time until the training loss that {title(TARGET)} ends at; 1: the fastest on all "
            "workloads, 0: nowhere within four times the best time.",
            profile_rows(profiles),
        )
    for other in ("muon_cosine", "adamw_cosine"):
        if other in next(iter(table.values())):
            made = task_rows(table, titles, ratio_shower(other))
            add(f"Per task: over {title(other)}", "Final training loss.", made, 2)
    add(
        "Per task: final training loss",
        "Mean over seeds, and the rate (*: at the edge of its grid).",
        task_rows(table, titles, show_loss),
        2,
    )
    made = task_rows(table, titles, show_test)
    add("Per task: test loss", "And accuracy where there are classes.", made, 2)
    if profiles:
        made = task_rows(table, titles, show_reach)
        add("Per task: steps and seconds to the target", "Processor time.", made, 2)
    made = task_rows(table, titles, show_cost)
    add("Per task: milliseconds per step", "Optimizer / all of a training step.", made, 2)
    return "\n".join(parts)


def _account(
    facts: Mapping[str, Any], plan: Plan, missing: Sequence[Workload], notes: Sequence[str]
) -> str:
    """What was run, where, and what lacks."""
    where = facts["environment"]
    lines = [
        f"Suite {facts['suite']}, seeds {', '.join(map(str, plan.seeds))}; rates are tuned on the "
        f"first. Weights of the learned rule: {facts['settings']['weights']}.",
        "",
        f"`{facts['command']}`",
        "",
        f"{where['processor']}, one thread per run, {facts['workers']} at a time; Python "
        f"{where['python']}, torch {where['torch']}, commit {where['commit']}.",
        "",
    ]
    if missing:
        names = "; ".join(map(str, missing))
        lines += [f"Not complete, so not counted ({len(missing)}): {names}.", ""]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def notes_on(table: Table, failed: Mapping[Any, str]) -> list[str]:
    """What a reader should know before quoting."""
    notes = []
    edges: dict[str, int] = {}
    for on, standings in table.items():
        for name, s in standings.items():
            edges[name] = edges.get(name, 0) + s.at_edge
            if s.diverged:
                notes.append(f"{title(name)} diverged with {s.diverged} seeds on {on}.")
    notes += [
        f"{title(name)}: the best rate lies at the edge of its grid on {count} of {len(table)}."
        for name, count in edges.items()
        if count
    ]
    notes += [f"{cell} failed: {error}" for cell, error in failed.items()]
    return notes
