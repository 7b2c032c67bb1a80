"""Put meta-trained weights into the package: ``python -m experiments.release_weights --run DIR``.

Copies the weights of a meta-training run (those of its best validation, or its last), writes the
model card from the run's record and from what is given of evaluations of these very weights: a
comparison (:mod:`experiments.compare_optimizers`), a record of :mod:`experiments.stability`. Keeps
all records under ``experiments/results/``.
"""

from __future__ import annotations

import hashlib
import shutil
from datetime import date
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from experiments import frame
from gmn_opt.optim import LearnedRule, load_rule
from gmn_opt.weights.atomic import write_atomically
from tasks.suites import HELD_OUT_DATA, META_TRAIN_DATA

PACKAGE = Path(__file__).parents[1] / "gmn_opt" / "weights"
RESULTS = Path(__file__).parent / "results"


class Checkpoint(StrEnum):
    """Which weights of a run."""

    BEST = "best"
    LAST = "last"

    @property
    def file(self) -> str:
        """In the folder of the run."""
        return "best.safetensors" if self is Checkpoint.BEST else "weights.safetensors"


def _stability(record: dict[str, Any]) -> dict[str, Any]:
    """The card's part of a stability record, without its curves."""
    runs = {
        steps: {
            mode: {k: facts[k] for k in ("final_train_loss", "worst_rise", "diverged")}
            for mode, facts in modes.items()
        }
        for steps, modes in record["runs"].items()
    }
    return {"task": record["task"], "runs": runs}


def _comparison(record: dict[str, Any]) -> dict[str, Any]:
    """The card's part of a comparison: mean final losses by length, task and optimizer.

    Every optimizer at the rate that the comparison chose; those that diverged are left out.
    """
    found: dict[str, Any] = {}
    for row in record["workloads"]:
        of_task = found.setdefault(str(row["steps"]), {}).setdefault(row["task"], {})
        for name, facts in row["contestants"].items():
            losses = {key: facts[key] for key in ("train_loss", "test_loss")}
            if None not in [x for values in losses.values() for x in values]:
                of_task[name] = {
                    "rate": facts["rate"],
                    **{key: round(fmean(values), 5) for key, values in losses.items()},
                    "seeds": len(losses["train_loss"]),
                }
    return found


def _chosen(record: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """The card's part on how the checkpoint was chosen, and what it reached."""
    step = record["outer_steps"]
    scores = {v["step"]: v["score"] for v in record.get("validations", [])}
    last = {"step": step, "score": scores.get(step)}
    best: dict[str, Any] | None = last if checkpoint is Checkpoint.LAST else record.get("best")
    if best is None:
        raise ValueError("The run was never validated, so it has no best checkpoint: use last.")
    long_runs = record["validation"]
    if checkpoint is Checkpoint.BEST and long_runs is not None:
        common = {k: long_runs[k] for k in ("steps", "initial_score")}
        long_runs = {**common, **long_runs["best"]}
    return {
        "checkpoint": f"moving average of the meta-parameters, {checkpoint} outer step",
        "outer_step": best["step"],
        "metric": record.get("metric"),
        "score": best["score"],
        "long_runs": long_runs,
        **({"shrinkage": record["shrinkage"]} if "shrinkage" in record else {}),
    }


def _compared(record: dict[str, Any]) -> dict[str, Any]:
    """The card's part of a record of :mod:`experiments.validate_weights`."""
    facts = {key: record[key] for key in ("metric", "steps", "networks", "seed")}
    return {**facts, "weights": record["weights"]}


def _origin(record: dict[str, Any]) -> dict[str, Any] | None:
    """What the run began with, if not with fresh weights, and where that came from.

    Weights that still ship have a card, whose account of their own training is taken over.
    """
    origin: dict[str, Any] | None = record.get("origin")
    if origin is None:
        return None
    cards = (
        frame.read_json(path.with_suffix(".json")) for path in sorted(PACKAGE.glob("*.safetensors"))
    )
    known = next((c for c in cards if c["sha256"] == origin["sha256"]), {})
    account = ("sizes", "command", "commit", "seed", "data", "compute", "notes", "origin")
    return {**origin, **{key: known[key] for key in account if key in known}}


def _same(evaluation: dict[str, Any], weights: Path, folder: Path) -> None:
    if Path(evaluation["weights"]).resolve() != weights.resolve():
        raise ValueError(f"{folder} evaluates {evaluation['weights']}, not {weights}.")


def _card(name: str, rule: LearnedRule, record: dict[str, Any], content: bytes) -> dict[str, Any]:
    """The model card, without its results."""
    return {
        "name": name,
        "what": "update rule of GMNOptimizer: a graph metanetwork over the trained network",
        "date": date.today().isoformat(),
        "meta_parameters": sum(p.numel() for p in rule.parameters()),
        "sizes": rule.config.to_dict(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "command": record["command"],
        "commit": record["environment"]["commit"],
        "seed": record["config"]["seed"],
        "origin": _origin(record),
        "data": {
            "meta_trained_on": list(META_TRAIN_DATA),
            "never_seen": list(HELD_OUT_DATA),
            "tasks": "random small networks of many families, see tasks/suites.py",
        },
        "compute": {
            "seconds": round(record["seconds"]),
            "outer_steps": record["outer_steps"],
            "inner_steps": record["inner_steps"],
            "events": record["events"],
            "processor": record["environment"]["processor"],
            "threads": record["environment"]["threads"],
            "torch": record["environment"]["torch"],
        },
    }


def main(
    run: Annotated[Path, typer.Option(help="Folder of a meta-training run.")],
    comparison: Annotated[Path, typer.Option(help="Folder of a comparison with other optimizers.")],
    stability: Annotated[Path | None, typer.Option(help="Folder of its stability record.")] = None,
    name: Annotated[str, typer.Option()] = "default",
    checkpoint: Annotated[Checkpoint, typer.Option()] = Checkpoint.BEST,
    validated: Annotated[
        Path | None, typer.Option(help="Folder of a record of validate_weights, for the card.")
    ] = None,
    notes: Annotated[
        str | None, typer.Option(help="What one must know of the run beyond its record.")
    ] = None,
) -> None:
    """Release the weights of ``run`` under ``name``."""
    weights = run / checkpoint.file
    console = frame.begin()
    with frame.refusing(console):
        rule = load_rule(weights)  # refuses a damaged or foreign file
        record = frame.read_json(run / "result.json")
        results: dict[str, Any] = {}
        if stability is not None:
            found = frame.read_json(stability / "result.json")
            _same(found, weights, stability)
            results["stability"] = _stability(found)
        results["comparison"] = _comparison(frame.read_json(comparison / "result.json"))
        compared: dict[str, Any] = {}
        if validated is not None:
            compared = {"compared": _compared(frame.read_json(validated / "result.json"))}
        chosen = _chosen(record, checkpoint)
        about = _card(name, rule, record, weights.read_bytes())
    content = weights.read_bytes()
    card = {
        **about,
        "notes": notes,
        "validation": {**chosen, **compared},
        **results,
    }
    kept = RESULTS / f"meta_train_{name}"
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("result.json", "curve.png"):
        if (run / file).exists():
            shutil.copy(run / file, kept / file)
    sources = {"stability": stability, "comparison": comparison}
    for label, source in sources.items():
        folder = RESULTS / f"{label}_{name}"
        for file in ("result.json", "cells.jsonl", "report.md", "curves.png", "profile.png"):
            if source is not None and (source / file).exists():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / file, folder / file)
    write_atomically(PACKAGE / f"{name}.safetensors", lambda path: path.write_bytes(content))
    frame.write_json(PACKAGE / f"{name}.json", card, indent=2)
    console.print(f"Wrote {PACKAGE / name}.safetensors and .json; records in {RESULTS}")


if __name__ == "__main__":
    typer.run(main)
