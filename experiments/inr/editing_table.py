"""One table of many editing runs: ``python -m experiments.inr.editing_table RUN...``.

Reads ``result.json`` of runs of ``experiments.inr_editing``, groups those that differ in their seed
alone, and writes ``table.json`` and ``table.md`` to --out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from experiments import frame
from experiments.spread import spread

_COLUMNS = (
    ("edit", "edit"),
    ("data", "data"),
    ("training INRs", "train"),
    ("editor", "kind"),
    ("settings", "settings"),
    ("seeds", "seeds"),
    ("test MSE", "test_mse"),
    ("identity", "identity"),
    ("floor", "floor"),
    ("steps", "steps"),
    ("train seconds", "seconds"),
)


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """What distinguishes runs beside the seed."""
    return {
        "edit": record["edit"],
        "data": record["data"],
        "kind": record["kind"],
        "inrs": record["inrs"],
        "editor": record["editor"],
        "training": record["training"],
        "architectures": [(t["widths"], t["seen"]) for t in record["tests"]],
    }


def _differing(groups: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Fields of editor and training in which some groups differ."""
    fields = [
        (part, name)
        for part in ("editor", "training")
        for name in sorted({n for g in groups for n in g[part]} - {"edit", "check_every"})
    ]
    return [
        (part, name)
        for part, name in fields
        if len({json.dumps(g[part].get(name)) for g in groups}) > 1
    ]


def table_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per group of runs that differ in the seed alone, best first within edit and data.

    Raises ValueError for a run that is unfinished, or there twice.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if not record["complete"]:
            raise ValueError(
                f"A run stopped after {record['steps']} steps: {record['command']}. Finish it with "
                "--resume, or leave it out."
            )
        groups.setdefault(json.dumps(_settings(record)), []).append(record)
    known = [_settings(runs[0]) for runs in groups.values()]
    differing = _differing(known)
    rows = []
    for settings, runs in zip(known, groups.values(), strict=True):
        seeds = sorted(r["seed"] for r in runs)
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"A run is there twice: seeds {seeds} of {runs[0]['command']}.")
        rows.append(
            {
                "edit": settings["edit"],
                "data": settings["data"],
                "train": settings["inrs"]["train"],
                "kind": settings["kind"],
                "settings": {name: settings[part].get(name) for part, name in differing},
                "seeds": seeds,
                "test_mse": [r["test_mse"] for r in sorted(runs, key=lambda r: r["seed"])],
                "identity": runs[0]["bounds"]["identity"],
                "floor": runs[0]["bounds"]["floor"],
                "steps": round(mean(r["steps"] for r in runs)),
                "seconds": round(mean(r["training_seconds"] for r in runs)),
                "tests": [r["tests"] for r in runs],
                "commands": [r["command"] for r in runs],
            }
        )
    return sorted(rows, key=lambda r: (r["edit"], r["data"], mean(r["test_mse"])))


def _cell(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if key == "test_mse":
        return spread(value, 4)
    if key == "settings":
        return ", ".join(f"{k} {json.dumps(v)}" for k, v in value.items())
    if key == "seeds":
        return str(len(value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table; a column of settings only where some differ."""
    columns = [(t, k) for t, k in _COLUMNS if k != "settings" or any(r["settings"] for r in rows)]
    lines = ["| " + " | ".join(title for title, _ in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row, key) for _, key in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: frame.Out = Path("runs/inr_editing/table"),
) -> None:
    """Write one table of many runs."""
    console = frame.begin()
    with frame.refusing(console):
        records = [frame.read_json(r / "result.json") for r in runs]
        rows = table_of(records)
    text = markdown(rows)
    content = {
        "command": frame.command_line(),
        "target_range": [-1, 1],
        "rows": rows,
        "environments": [r["environment"] for r in records],
    }
    frame.write_json(out / "table.json", content)
    frame.write_text(out / "table.md", text)
    console.print(text, markup=False)


if __name__ == "__main__":
    typer.run(main)
