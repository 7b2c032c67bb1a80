"""The sentences at the end of the demo, built from the figures alone."""

from __future__ import annotations

import math

from gmn_opt.cli.contest import GMN, GMN_HORIZON, GMN_INITIAL, format_rate
from gmn_opt.cli.demo.summary import BEST, DEFAULT, ModelSummary, Spread

_LEVEL = 0.005


def verdict(summary: ModelSummary) -> str:
    """What the runs on one model show, in two or three sentences."""
    best = f"AdamW at its best constant rate {format_rate(summary.tuning.best)}"
    against = summary.ratios[GMN.name]
    known_end = summary.ratios[GMN_HORIZON.name]
    ended = f"ended at training loss {format_loss(summary.standing(GMN.name).loss.mean)}"
    first = (
        f"GMNOptimizer without any setting {ended}: "
        f"{compare(against[DEFAULT], 'AdamW at its default rate')}, and "
        f"{compare(against[BEST], best)}."
    )
    second = (
        f"With total_steps, it ended {compare(known_end[DEFAULT], 'the default rate')} and "
        f"{compare(known_end[BEST], 'the best rate')}."
    )
    return f"{first} {second} {frozen_sentence(summary)}"


def frozen_sentence(summary: ModelSummary) -> str:
    """How much of it the trained metanet is worth."""
    trained = summary.standing(GMN.name).loss.mean
    frozen = summary.standing(GMN_INITIAL.name).loss.mean
    text = "The same rule with its metanet frozen as it was before meta-training ended at "
    text += format_loss(frozen)
    if not math.isfinite(frozen) or not math.isfinite(trained):
        return text + "."
    change = frozen / trained - 1
    if abs(change) < _LEVEL:
        return text + ", level with the trained one."
    word = "higher" if change > 0 else "lower"
    return text + f", {abs(change):.0%} {word} than with the trained one."


def compare(ratio: Spread, rival: str) -> str:
    """A ratio of losses in words: how far below or above, and in how many seeds below."""
    if not math.isfinite(ratio.mean):
        return f"nowhere near {rival} (a run diverged)"
    change = ratio.mean - 1
    seeds = len(ratio.values)
    lower = sum(value < 1 for value in ratio.values)
    share = f"lower in {lower} of {seeds} seeds" if seeds > 1 else "one seed"
    if abs(change) < _LEVEL:
        return f"level with {rival} ({share})"
    return f"{abs(change):.1%} {'below' if change < 0 else 'above'} {rival} ({share})"


def caveats(summaries: list[ModelSummary], *, quick: bool) -> list[str]:
    """What the reader should know before quoting the figures."""
    notes = []
    seeds, steps = len(summaries[0].seeds), summaries[0].steps
    if quick:
        some = "1 seed" if seeds == 1 else f"{seeds} seeds"
        notes.append(f"Quick run: {some} and {steps} steps. Leave out --quick for real figures.")
    if seeds == 1:
        notes.append("One seed: no spread was measured; --seeds 3 measures one.")
    for summary in summaries:
        if summary.tuning.at_edge or summary.tuning.added:
            notes.append(f"! {summary.title}: {summary.tuning.describe()}.")
        for text in sorted({text for run in summary.runs for text in run.warnings}):
            notes.append(f"{summary.title}: a run warned: {text}")
    return notes


def format_loss(loss: float) -> str:
    """Three significant digits or more, or the word for what is no number."""
    return f"{loss:.4f}" if math.isfinite(loss) else "diverged"
