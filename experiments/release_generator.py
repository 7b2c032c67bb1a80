"""Put a generator of digits into the package, with its card; refuse one that is not good enough.

``python -m experiments.release_generator runs/generate_digits``
"""

from __future__ import annotations

import hashlib
import shutil
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import frame
from experiments.generate_digits import COOL
from gmn_opt.generate.digits import NAME, load_digits
from gmn_opt.weights.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gmn_opt" / "weights"
RESULTS = Path(__file__).parent / "results" / "generate_digits"
LEAST = 0.9


def card_of(record: dict[str, Any], steps: int, content: bytes) -> dict[str, Any]:
    """The model card."""
    environment = record["environment"]
    return {
        "name": NAME,
        "what": "generator of networks that are handwritten digits, for a class",
        "date": date.today().isoformat(),
        "parameters": record["parameters"],
        "sizes": record["sizes"],
        "sha256": hashlib.sha256(content).hexdigest(),
        "command": record["command"],
        "commit": environment["commit"],
        "seed": record["seed"],
        "data": {
            "name": "mnist",
            "networks": record["sizes"]["images"],
            "images": "bundled; networks fitted from one learned start, so in a shared order",
            "never_seen": "test images",
        },
        "compute": {
            "steps": steps,
            "cpu_seconds_of_last_run": record["cpu_seconds_this_run"],
            "processor": environment["processor"],
            "threads": environment["threads"],
            "torch": environment["torch"],
        },
        "results": {k: record[k] for k in RESULT_KEYS},
    }


RESULT_KEYS = (
    "kinds",
    "audit_generated",
    "audit_generated_cool",
    "audit_held_out",
    "nearest_training_image_rms",
    "right_neighbour",
)


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished generate_digits run.")],
    package: Annotated[Path, typer.Option(help="Where weights and card go.")] = PACKAGE,
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
    least: Annotated[float, typer.Option(help="Least share recognized.")] = LEAST,
) -> None:
    """Release the generator of a run."""
    console = frame.begin()
    weights = run / f"{NAME}.safetensors"
    with frame.refusing(console):
        record = frame.read_json(run / "result.json")
        share = record["kinds"][COOL]["recognized"]
        if share < least:
            raise ValueError(f"Only {share:.1%} are recognized, at least {least:.0%} must be.")
        generator = load_digits(weights)
    results.mkdir(parents=True, exist_ok=True)
    for file in ("result.json", "sheet.png", "nearest.png"):
        shutil.copy(run / file, results / file)
    content = weights.read_bytes()
    write_atomically(package / weights.name, lambda path: path.write_bytes(content))
    card = card_of(record, generator.about["steps"], content)
    frame.write_json(package / f"{NAME}.json", card, indent=2)
    console.print(f"{NAME}: weights and card in the package, record in {results.name}")


if __name__ == "__main__":
    typer.run(main)
