"""Put a trained weight editor into the package: ``python -m experiments.release_editor RUN``.

RUN is the folder of a finished run of ``experiments.inr_editing`` or of
``experiments.photo_editing``. Writes ``inr-EDIT-grey.safetensors`` (or ``-colour``) and its model
card, and keeps the run's record under ``experiments/results/inr_editing/NAME`` or
``photo_editing/NAME``. An editor must at least halve the error of no edit at all, or take --most
times it, to ship.
"""

from __future__ import annotations

import hashlib
import shutil
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import frame
from gmn_opt.inr import WeightEditor, load_editor
from gmn_opt.inr.editor_files import editor_name
from gmn_opt.inr.edits import PHOTO
from gmn_opt.weights.atomic import write_atomically
from tasks.data.photo_collection import names

PACKAGE = Path(__file__).parents[1] / "gmn_opt" / "weights"
RESULTS = Path(__file__).parent / "results"


def checked(record: dict[str, Any], weights: Path, most: float) -> WeightEditor:
    """The editor of a run; raises ValueError for one that should not ship."""
    editor = load_editor(weights)
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != record.get("sha256"):
        raise ValueError(f"{weights} is not the editor that its record judges (sha256 {found}).")
    if is_for_photographs(record):
        if "results" not in record:
            raise ValueError("The run judged nothing: it trained a part of an editor.")
        error, identity = (record["results"][k] for k in ("test_mse", "no_edit"))
    else:
        if not record["complete"]:
            raise ValueError(
                f"The run stopped after {record['steps']} steps; finish it with --resume."
            )
        error, identity = record["test_mse"], record["bounds"]["identity"]
    if not error <= most * identity:
        raise ValueError(
            f"The editor's error {error:.4f} is more than {most:g} times that of no edit at all, "
            f"{identity:.4f}: train it for longer."
        )
    return editor


def is_for_photographs(record: dict[str, Any]) -> bool:
    """Whether a record is one of ``experiments.photo_editing``."""
    return bool(record["edit"].startswith(PHOTO))


def _identity(name: str, what: str, record: dict[str, Any], editor: WeightEditor) -> dict[str, Any]:
    """The part of every card that says which editor this is, and how it was made."""
    return {
        "name": name,
        "what": f"weight editor ({record['edit']}): edits {what}",
        "date": date.today().isoformat(),
        "parameters": record["parameters"],
        "sizes": record["editor"],
        "inr": editor.inr.to_dict(),
        "image_size": editor.about.get("size"),
        "sha256": record["sha256"],
        "command": record["command"],
        "commit": record["environment"]["commit"],
        "seed": record["seed"],
    }


def _machine(record: dict[str, Any]) -> dict[str, Any]:
    """The part of every card about where the editor was trained."""
    environment = record["environment"]
    return {
        "processor": environment["cuda"] or environment["processor"],
        "threads": environment["threads"],
        "torch": environment["torch"],
    }


def photo_card_of(name: str, record: dict[str, Any], editor: WeightEditor) -> dict[str, Any]:
    """The model card of an editor of tiled INRs."""
    results = record["results"]
    told = ("name", "fit_psnr", "worst_tile_psnr", "test_mse", "no_edit", "floor", "seam_ratio",
            "seam_ratio_of_reference")  # fmt: skip
    return {
        **_identity(name, "photographs by the weights of tiled INRs", record, editor),
        "data": {
            "name": "tasks/data/photographs.json",
            "photographs": record["photographs"],
            "licences": record["licences"],
            "never_seen": list(names("test")),
        },
        "training": {part: record[part] for part in ("rounds", "predictor")},
        "compute": {
            "seconds": record["rounds"]["seconds"] + record["predictor"]["seconds"],
            **_machine(record),
        },
        "results": {
            "side": record["side"],
            "target_range": record["target_range"],
            "identity": results["no_edit"],
            **{k: v for k, v in results.items() if k != "no_edit"},
            "tests": [{k: t[k] for k in told} for t in record["tests"]],
        },
    }


def card_of(name: str, record: dict[str, Any], editor: WeightEditor) -> dict[str, Any]:
    """The model card."""
    return {
        **_identity(name, "images by the weights of their INRs", record, editor),
        "data": {
            "name": record["data"],
            "inrs": record["inrs"],
            "images": record["origin"],
            "never_seen": "validation and test INRs",
        },
        "training": record["training"],
        "checkpoint": f"lowest validation error, step {record['best_step']} of {record['steps']}",
        "compute": {
            "steps": record["steps"],
            "seconds": record["training_seconds"],
            **_machine(record),
        },
        "results": {
            "test_mse": record["test_mse"],
            "tests": [
                {k: t[k] for k in ("data", "widths", "seen", "count", "test_mse")}
                | {"identity": t["bounds"]["identity"]}
                for t in record["tests"]
            ],
            "identity": record["bounds"]["identity"],
            "floor": record["bounds"]["floor"],
            "target_range": record["target_range"],
        },
    }


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    package: Annotated[Path, typer.Option(help="Where weights and card go.")] = PACKAGE,
    most: Annotated[float, typer.Option(help="Most error, relative to no edit.")] = 0.5,
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
) -> None:
    """Release the editor of a run."""
    console = frame.begin()
    weights = run / "editor.safetensors"
    with frame.refusing(console):
        record = frame.read_json(run / "result.json")
        editor = checked(record, weights, most)
    name = editor_name(record["edit"], editor.inr.outputs)
    is_photo = is_for_photographs(record)
    kept = results / ("photo_editing" if is_photo else "inr_editing") / name
    kept.mkdir(parents=True, exist_ok=True)
    pictures = ("gallery.jpg",) if is_photo else ("curve.png", "gallery.png")
    for file in ("result.json", *pictures):
        if (run / file).exists():
            shutil.copy(run / file, kept / file)
    content = weights.read_bytes()
    write_atomically(package / f"{name}.safetensors", lambda path: path.write_bytes(content))
    card = (photo_card_of if is_photo else card_of)(name, record, editor)
    frame.write_json(package / f"{name}.json", card, indent=2)
    console.print(f"{name}: weights and card in the package, record in {kept.name}")


if __name__ == "__main__":
    typer.run(main)
