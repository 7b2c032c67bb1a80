"""How much of what was learned to keep: ``python -m experiments.shrink_rule --run runs/default``.

What a rule changes about its hand-made base is a multiple of its last layer. Meta-gradients of
first order see too much use in early steps, so that less of the change may serve better. This
measures shares of it on the validation tasks (:mod:`gmn_opt.meta.validation`), and writes the run's
folder again to --out with the best share: ``weights.safetensors`` and ``result.json``, in which
``shrinkage`` holds all scores, and those of an earlier time under ``before``: shares multiply.
``experiments.release_weights`` takes that folder.
"""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments import frame
from gmn_opt.meta import World
from gmn_opt.meta.validation import METRIC, Validation, score
from gmn_opt.optim import LearnedRule, load_rule, save_rule
from tasks.suites import validation


def shrunk(rule: LearnedRule, share: float) -> LearnedRule:
    """A rule that does ``share`` of what ``rule`` changes about the base, before bounds."""
    made = deepcopy(rule)
    with torch.no_grad():
        for head in (made.block_head, made.node_head):
            if head is not None:
                head.weight.mul_(share)
                head.bias.mul_(share)
    return made


def chosen_shares(text: str) -> list[float]:
    """What --shares says, in order; raises ValueError for a share outside of (0, 1]."""
    given = sorted({float(share) for share in text.split(",")})
    if not all(0 < share <= 1 for share in given):
        raise ValueError(f"--shares takes numbers in (0, 1], received {text!r}.")
    return given


def main(
    run: Annotated[Path, typer.Option(help="Folder of a meta-training run.")],
    out: frame.Out = Path("runs/shrunk"),
    shares: Annotated[
        str, typer.Option(help="Of the learned change, in (0, 1].")
    ] = "0.2,0.4,0.6,1",
    every: Annotated[
        int | None, typer.Option(min=1, help="Steps for which a thought serves, if others.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Per task.")] = 700,
    networks: Annotated[int, typer.Option(help="Per task.")] = 2,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 4321,
    threads: frame.Threads = 1,
) -> None:
    """Choose a share of the learned change on the validation tasks."""
    console = frame.begin(threads)
    with frame.refusing(console):
        rule = load_rule(str(run / "weights.safetensors"))
        if every is not None:
            rule.config = replace(rule.config, every=every)
        record = frame.read_json(run / "result.json")
        given = chosen_shares(shares)
    measure = Validation(validation(), steps, networks, seed)
    found: dict[str, dict[str, Any]] = {}
    for share in given:
        ratios = measure.ratios(shrunk(rule, share), World())
        found[f"{share:g}"] = {"score": score(ratios), "ratios": ratios}
        console.print(
            f"share {share:g}: score {score(ratios):.4f}, worst {max(ratios.values()):.3f}"
        )
    best = min(found, key=lambda share: found[share]["score"])
    out.mkdir(parents=True, exist_ok=True)
    save_rule(out / "weights.safetensors", shrunk(rule, float(best)))
    if (run / "curve.png").exists():
        shutil.copy(run / "curve.png", out / "curve.png")
    facts = {"metric": METRIC, "steps": steps, "networks": networks, "seed": seed}
    shrinkage = {"chosen": best, "every": rule.config.every, **facts, "shares": found}
    if "shrinkage" in record:
        shrinkage["before"] = record["shrinkage"]
    frame.write_json(out / "result.json", {**record, "shrinkage": shrinkage})
    console.print(f"Wrote {out / 'weights.safetensors'} with share {best}")


if __name__ == "__main__":
    typer.run(main)
