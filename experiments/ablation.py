"""What every part of the learned rule earns: ``python -m experiments.ablation --preset cpu``.

Every variant is meta-trained from nothing for the same time on the same tasks, with several
meta-seeds, and then trains the validation tasks (:mod:`gmn_opt.meta.validation`) at the
longest horizon. A cell that is done stands in ``--out``/cells and is not made again, so the
command can be stopped and repeated; ``result.json`` is written at the end of every call
from what is there.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from experiments import frame
from experiments.shrink_rule import chosen_shares, shrunk
from experiments.spread import plus_minus
from gmn_opt.meta import (
    FullBackprop,
    MetaConfig,
    MetaTrainer,
    PersistentES,
    TruncatedBackprop,
    World,
)
from gmn_opt.meta.small_rule import SmallRuleConfig
from gmn_opt.meta.validation import METRIC, Validation, score
from gmn_opt.meta.windows import Uniform
from gmn_opt.optim import LearnedRule, RuleConfig, save_rule
from tasks.suites import MetaTrainSuite, validation

_RULE = RuleConfig()
_WHOLE = MetaConfig(
    meta_steps=100_000, horizon=(100, 700), first_horizon=None, known_horizon=0.75, ema=0.95,
    cooldown=1e-9, validate_every=0, rule=_RULE,
)  # fmt: skip
#: What is compared, all else equal to the first.
VARIANTS = {
    "graph": _WHOLE,
    "blocks": replace(_WHOLE, rule=replace(_RULE, messages=False)),
    "sizes": replace(_WHOLE, rule=replace(_RULE, mixture="none")),
    "sizes-blocks": replace(_WHOLE, rule=replace(_RULE, mixture="none", messages=False)),
    "mixture-adam": replace(_WHOLE, rule=replace(_RULE, mixture="adam")),
    "gains": replace(_WHOLE, rule=replace(_RULE, neurons=True)),
    "second-order": replace(_WHOLE, estimator=FullBackprop(second_order=True, chunk=10)),
    "truncated": replace(_WHOLE, estimator=TruncatedBackprop(windows=Uniform(16, 36))),
    "small-pes": replace(
        _WHOLE, rule=SmallRuleConfig(16), estimator=PersistentES(windows=Uniform(40, 60))
    ),
}
TITLES = {
    "graph": "step, decay and mixture of directions per block, with messages",
    "blocks": "the same without messages: statistics of blocks only",
    "sizes": "step and decay per block, with messages",
    "sizes-blocks": "step and decay per block, without messages",
    "mixture-adam": "mixture only where the base takes one of Adam's directions",
    "gains": "and a gain per neuron",
    "second-order": "second-order meta-gradients",
    "truncated": "windows of 16 to 36 steps in place of whole runs",
    "small-pes": "per parameter, no graph, no base; persistent evolution strategies",
}


@dataclass(frozen=True)
class Size:
    """Of a preset.

    minutes: of processor time, to meta-train a cell; steps, networks: of every validation task.
    """

    minutes: float
    steps: int
    networks: int


PRESETS = {"smoke": Size(0.05, 10, 1), "cpu": Size(15, 700, 2), "gpu": Size(15, 700, 2)}


def cell(
    name: str, seed: int, size: Size, shares: list[float], measure: Validation, path: Path
) -> dict[str, Any]:
    """Meta-train one variant, keep its weights beside ``path``, and judge it."""
    trainer = MetaTrainer(MetaTrainSuite(), replace(VARIANTS[name], seed=seed), measure.device)
    started = time.process_time()
    for _ in trainer.train():
        if time.process_time() - started >= 60 * size.minutes:
            break
    rule = trainer.averaged_rule()
    if isinstance(rule, LearnedRule):
        save_rule(path.with_suffix(".safetensors"), rule)
    judged = {}
    for share in shares if isinstance(rule, LearnedRule) else [1.0]:
        scaled = shrunk(rule, share) if isinstance(rule, LearnedRule) else rule
        ratios = measure.ratios(scaled, World())
        judged[f"{share:g}"] = {"score": score(ratios), "ratios": ratios}
    return {
        "variant": name,
        "seed": seed,
        "outer_steps": trainer.step,
        "inner_steps": trainer.inner_steps,
        "seconds": time.process_time() - started,
        "events": trainer.counts,
        "meta_parameters": sum(p.numel() for p in rule.parameters()),
        "config": trainer.config.to_dict(),
        "shares": judged,
    }


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per variant and share: score and worst ratio over meta-seeds."""
    rows = []
    for name in VARIANTS:
        mine = [c for c in cells if c["variant"] == name]
        for share in mine[0]["shares"] if mine else ():
            scores = [c["shares"][share]["score"] for c in mine]
            rows.append(
                {
                    "variant": name,
                    "title": TITLES[name],
                    "share": share,
                    "seeds": len(mine),
                    "outer_steps": statistics.mean(c["outer_steps"] for c in mine),
                    "meta_parameters": mine[0]["meta_parameters"],
                    "score": statistics.mean(scores),
                    "spread": statistics.stdev(scores) if len(scores) > 1 else None,
                    "median": statistics.median(
                        r for c in mine for r in c["shares"][share]["ratios"].values()
                    ),
                    "worst": max(max(c["shares"][share]["ratios"].values()) for c in mine),
                }
            )
    return rows


def report(out: Path, size: Size, measure: Validation, console: Console) -> None:
    """Write and print what the cells say."""
    cells = [frame.read_json(path) for path in sorted((out / "cells").glob("*.json"))]
    rows = summary(cells)
    facts = {
        "metric": METRIC,
        "minutes": size.minutes,
        "steps": size.steps,
        "networks": size.networks,
        "seed": measure.seed,
        "reference_losses": measure.reference,
        "table": rows,
        "cells": cells,
    }
    frame.write_record(out / "result.json", facts)
    columns = ("learned", "numbers", "seeds", "outer steps", "share", "score", "median", "worst")
    told = (
        (
            row["title"], f"{row['meta_parameters']:,}", str(row["seeds"]),
            f"{row['outer_steps']:.0f}", row["share"],
            plus_minus(row["score"], row["spread"], sign="+"),
            f"{row['median']:.3f}", f"{row['worst']:.2f}",
        )
        for row in rows
    )  # fmt: skip
    console.print(frame.table("final training loss over that of the base", columns, told))


def main(
    preset: frame.Preset = "cpu",
    out: frame.Out = Path("runs/ablation"),
    variants: Annotated[str, typer.Option(help="Of the table, with commas.")] = ",".join(VARIANTS),
    seeds: Annotated[int, typer.Option(min=1, help="Meta-seeds per variant.")] = 3,
    minutes: Annotated[float | None, typer.Option(help="Of meta-training per cell.")] = None,
    shares: Annotated[str, typer.Option(help="Of the learned change, in (0, 1].")] = "0.4,1",
    device: frame.Device = "auto",
    threads: frame.Threads = 1,
) -> None:
    """Meta-train variants of the rule for equal times, and compare them."""
    console = frame.begin(threads)
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        names = frame.chosen("variant", variants, VARIANTS)
        parts = chosen_shares(shares)
        where = frame.choose_device(device)
    size = PRESETS[preset]
    if minutes is not None:
        size = replace(size, minutes=minutes)
    kept = out / "reference.json"
    settings = {"steps": size.steps, "networks": size.networks}
    measure = Validation(validation(), size.steps, size.networks, 4321, where)
    if kept.exists() and (known := frame.read_json(kept))["settings"] == settings:
        measure.reference = known["losses"]
    for seed in range(seeds):
        for name in names:
            path = out / "cells" / f"{name}-{seed}.json"
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            found = cell(name, seed, size, parts, measure, path)
            frame.write_json(kept, {"settings": settings, "losses": measure.reference})
            frame.write_json(path, found)
            told = ", ".join(f"share {s} {j['score']:+.3f}" for s, j in found["shares"].items())
            console.print(f"{name}, seed {seed}: {found['outer_steps']} outer steps, {told}")
    report(out, size, measure, console)


if __name__ == "__main__":
    typer.run(main)
