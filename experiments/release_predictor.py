"""Train the predictor of accuracies that ships, calibrate it, judge it, and write its card.

    python -m experiments.release_predictor --zoo DIR --zoo DIR --out gmn_opt/weights

Zoos are those of `experiments.model_zoo`. 70 % of the networks are learnt from; intervals come from
15 %; the rest, which nothing was chosen by, says how good it is. Training keeps its state in
``--state`` and can be resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments import frame
from gmn_opt.predict import (
    CalibratedPredictor,
    NetworkDataset,
    Predictor,
    Recipe,
    calibrate,
    fit_predictor,
    kendall_tau,
    r2_score,
)

NAME, TARGET = "accuracy", "test_accuracy"
COVERAGES = (0.5, 0.8, 0.9, 0.95)
#: Members, epochs.
PRESETS = {"smoke": (1, 1), "cpu": (2, 15), "gpu": (5, 60)}


def load(zoos: Sequence[Path], most: int | None) -> NetworkDataset:
    """Finished networks of all zoos, at most so many of each; rows say which zoo."""
    networks, rows = [], []
    for folder in zoos:
        data = NetworkDataset.load(folder).where(lambda row: row["at"] == 1.0)
        data = data[:most]
        networks += data.networks
        rows += [{**row, "zoo": folder.name} for row in data.table]
    return NetworkDataset(networks, rows)


def judge(calibrated: CalibratedPredictor, test: NetworkDataset) -> dict[str, Any]:
    """R², tau and coverage on networks that nothing was learnt from, in all and by zoo."""
    true = test.column(TARGET)
    found: dict[str, Any] = {}
    zoos = sorted({row["zoo"] for row in test.table})
    for name in ("all", *zoos):
        chosen = torch.tensor([name in ("all", row["zoo"]) for row in test.table])
        part = test.subset(chosen.nonzero().flatten().tolist())
        values = true[chosen]
        estimates = calibrated.estimate(part)
        predicted = torch.tensor([e.value for e in estimates])
        found[name] = {
            "networks": len(part),
            "r2": r2_score(predicted, values),
            "tau": kendall_tau(predicted, values),
            "mean_absolute_error": float((predicted - values).abs().mean()),
            "unusual": sum(e.unusual for e in estimates) / len(part),
        }
        covered = {}
        for coverage in COVERAGES:
            width = calibrated.width(coverage)
            covered[f"{coverage:g}"] = float(((predicted - values).abs() <= width).float().mean())
        found[name]["coverage"] = covered
    return found


def main(
    zoo: Annotated[list[Path], typer.Option(help="Folder of experiments.model_zoo; repeat.")],
    preset: frame.Preset = "cpu",
    most: Annotated[int | None, typer.Option(help="Networks of each zoo, at most.")] = None,
    members: Annotated[int | None, typer.Option(help="By default the preset's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="By default the preset's.")] = None,
    state: Annotated[Path | None, typer.Option(help="File for the state of training.")] = None,
    seed: frame.Seed = 0,
    out: frame.Out = Path("release_predictor"),
    resume: frame.Resume = False,
    threads: frame.Threads = 1,
) -> None:
    """Write accuracy.safetensors and its card to --out."""
    console = frame.begin(threads)
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        out.mkdir(parents=True, exist_ok=True)
        data = load(zoo, most)
        train, held, test = data.split(0.7, 0.15, seed=seed)
        recipe = Recipe(members or PRESETS[preset][0], epochs or PRESETS[preset][1])
        made = fit_predictor(
            train, train.column(TARGET), seed=seed, recipe=recipe,
            valid=0.1, out=state, resume=resume,
        )  # fmt: skip
        assert isinstance(made, Predictor)
        calibrated = calibrate(made, train, held, held.column(TARGET), bounds=(0.0, 1.0), seed=seed)
        path = out / f"{NAME}.safetensors"
        calibrated.save(path)
        results = judge(calibrated, test)
        frame.write_json(path.with_suffix(".json"), card(made, path, zoo, data, seed, results))
    for name, found in results.items():
        console.print(
            f"{name}: R² {found['r2']:.3f}, tau {found['tau']:.3f}, coverage of 90 % intervals "
            f"{found['coverage']['0.9']:.3f}, {found['networks']} networks"
        )


def card(
    made: Predictor,
    path: Path,
    zoos: Sequence[Path],
    data: NetworkDataset,
    seed: int,
    results: dict[str, Any],
) -> dict[str, Any]:
    """The model card."""
    environment = frame.environment()
    return {
        "name": NAME,
        "what": "predictor of the test accuracy of small image classifiers from their weights",
        "date": date.today().isoformat(),
        "parameters": sum(p.numel() for p in made.parameters()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "command": frame.command_line(),
        "commit": environment["commit"],
        "seed": seed,
        "data": {
            "networks": len(data),
            "learnt from": round(0.7 * len(data)),
            "calibrated on": round(0.15 * len(data)),
            "kinds": sorted({row["kind"] for row in data.table}),
            "images": sorted({row["data"] for row in data.table}),
            "zoos": [frame.read_json(folder / "zoo.json") for folder in zoos],
        },
        "model": made.config,
        "training": {"recipe": made.record["recipe"], "members": made.record["members"]},
        # of training alone, over all parts of an interrupted one
        "compute": {
            "seconds": sum(m["seconds"] for m in made.record["members"]),
            "environment": environment,
        },
        "held_out_results": results,
        "limits": (
            "Knows small classifiers of MNIST and Fashion-MNIST at 8 and 14 pixels, 0.3 K to 60 K "
            "parameters, trained for up to 400 steps. Of others an estimate means little; most "
            "are called unusual. Running statistics of batch norms are not looked at."
        ),
    }


if __name__ == "__main__":
    typer.run(main)
