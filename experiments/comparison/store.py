"""The folder of a comparison: a line per cell, written as soon as the cell ends."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import frame
from experiments.comparison.cells import Cell, Results
from gmn_opt.cli.bench.contestants import CONTESTANTS
from gmn_opt.weights.atomic import write_atomically

CELLS, PROTOCOL = "cells.jsonl", "protocol.json"


class Store:
    """Cells on disk; a killed run loses none that had ended.

    Args:
        folder: made if it does not exist.
        protocol: what all cells must have in common so that they compare.
        resume: go on with what is there.

    Raises ValueError for a folder that holds another run, or one that was not asked for.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any], resume: bool) -> None:
        self.path = folder / CELLS
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / PROTOCOL
        if self.path.exists() and not resume:
            raise ValueError(
                f"{folder} holds a comparison already. Go on with it by --resume, or choose "
                "another --out."
            )
        self.results: dict[Cell, dict[str, Any]] = {}
        if self.path.exists() and known.exists():
            frame.check_settings(f"The comparison in {folder}", frame.read_json(known), protocol)
            self._load()
        else:
            frame.write_json(known, protocol)

    def _load(self) -> None:
        """Read the lines; one that a kill cut short is the last, and is removed."""
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:
            write_atomically(self.path, lambda path: path.write_bytes(whole))
        self.results = read_cells(self.path)

    def add(self, record: dict[str, Any]) -> None:
        """Write a cell's line in one piece and see it onto the disk."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.results[Cell.of(record)] = record


def read_cells(path: Path) -> dict[Cell, dict[str, Any]]:
    """The records of a file; raises ValueError for lines that are none."""
    found: dict[Cell, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            found[Cell.of(record)] = record
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {path} is no cell of a comparison ({error}). Remove that line."
            ) from error
    return found


def read_baselines(folder: Path, protocol: Mapping[str, Any]) -> Results:
    """The cells of another comparison that do not depend on the learned rule.

    Raises ValueError if there is none in ``folder``, or if it was run otherwise.
    """
    known = folder / PROTOCOL
    if not known.exists() or not (folder / CELLS).exists():
        raise ValueError(f"{folder} holds no comparison; --baselines takes the --out of one.")
    check_baselines(folder, frame.read_json(known), protocol)
    found = read_cells(folder / CELLS)
    learned = {contestant.method for contestant in CONTESTANTS.values() if contestant.learned}
    return {cell: r for cell, r in found.items() if cell.method not in learned}


def check_baselines(folder: Path, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise ValueError unless two protocols are the same but for the learned rule's weights."""
    without = [{k: v for k, v in p.items() if k != "weights"} for p in (theirs, mine)]
    frame.check_settings(f"The comparison in {folder}", *without)
