"""Mutated files: read, or refused by one clear error, in bounded time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _fuzz(folder: Path, seed: int, count: int) -> None:
    command = [sys.executable, str(HERE / "fuzz_worker.py"), str(folder), str(seed), str(count)]
    root = HERE.parents[1]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=3500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == []
    assert found["read"] + found["refused"] == count
    # most damage is noticed; some is none, such as another value of a weight
    assert found["refused"] > count // 3
    assert found["read"] > 0


def test_two_hundred_mutated_files(tmp_path: Path) -> None:
    _fuzz(tmp_path, seed=0, count=200)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_thousand_mutated_files(tmp_path: Path, seed: int) -> None:
    _fuzz(tmp_path, seed=seed, count=2000)
