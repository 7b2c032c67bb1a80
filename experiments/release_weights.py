"""Put meta-trained weights into the package: ``python -m experiments.release_weights --run DIR``.

Copies ``weights.safetensors`` of a meta-training run, writes the model card from the run's record
and a held-out evaluation of these very weights, and keeps both records under
``experiments/results/``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gmn_opt.optim import load_rule
from gmn_opt.weights.atomic import write_atomically
from tasks.suites import HELD_OUT_DATA, META_TRAIN_DATA

PACKAGE = Path(__file__).parents[1] / "gmn_opt" / "weights"
RESULTS = Path(__file__).parent / "results"


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _held_out(record: dict[str, Any]) -> dict[str, Any]:
    """The card's part of a held-out record: losses and ratios per task."""
    tasks: dict[str, Any] = {}
    for name, facts in record["tasks"].items():
        summary = facts["summary"]
        accuracy = {
            who: round(sum(o["test_accuracy"]) / len(o["test_accuracy"]), 4)
            for who, o in facts["outcomes"].items()
            if not who.startswith("adamw")
            or who in ("adamw 0.001", f"adamw {summary['best_rate']:g}")
        }
        tasks[name] = {
            "final_train_loss": {k: round(v, 4) for k, v in summary["final_train_loss"].items()},
            "best_adamw_rate": summary["best_rate"],
            "ratio_to_adamw_best": {
                k: [round(r, 3) for r in v] for k, v in summary["ratio_to_adamw_best"].items()
            },
            "test_accuracy": accuracy,
        }
    return {"steps": record["steps"], "seeds": record["seeds"], "tasks": tasks}


def main(
    run: Annotated[Path, typer.Option(help="Folder of a meta-training run.")],
    held_out: Annotated[Path, typer.Option(help="Folder of its held-out evaluation.")],
    name: Annotated[str, typer.Option()] = "default",
) -> None:
    """Release the weights of ``run`` under ``name``."""
    weights = run / "weights.safetensors"
    rule = load_rule(weights)  # refuses a damaged or foreign file
    record, evaluation = _read(run / "result.json"), _read(held_out / "result.json")
    if Path(evaluation["weights"]).resolve() != weights.resolve():
        Console().print(f"{held_out} evaluates {evaluation['weights']}, not {weights}.")
        raise typer.Exit(2)
    card = {
        "name": name,
        "what": "update rule of GMNOptimizer: a graph metanetwork over the trained network",
        "meta_parameters": sum(p.numel() for p in rule.parameters()),
        "sizes": rule.config.to_dict(),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "command": record["command"],
        "commit": record["environment"]["commit"],
        "seed": record["config"]["seed"],
        "data": {
            "meta_trained_on": list(META_TRAIN_DATA),
            "never_seen": list(HELD_OUT_DATA),
            "tasks": "random small MLPs and CNNs, see tasks/suites.py",
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
        "notes": record.get("slices_note"),
        "checkpoint": "moving average of the meta-parameters at the last outer step",
        "validation": record["validation"],
        "held_out": _held_out(evaluation),
    }
    kept = RESULTS / f"meta_train_{name}"
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("result.json", "curve.png"):
        if (run / file).exists():
            shutil.copy(run / file, kept / file)
    evaluated = RESULTS / f"held_out_{name}"
    evaluated.mkdir(parents=True, exist_ok=True)
    for file in ("result.json", "curves.png"):
        shutil.copy(held_out / file, evaluated / file)
    content = weights.read_bytes()
    write_atomically(PACKAGE / f"{name}.safetensors", lambda path: path.write_bytes(content))
    text = json.dumps(card, indent=2) + "\n"
    write_atomically(PACKAGE / f"{name}.json", lambda path: path.write_text(text, encoding="utf-8"))
    Console().print(f"Wrote {PACKAGE / name}.safetensors and .json; records in {RESULTS}")


if __name__ == "__main__":
    typer.run(main)
