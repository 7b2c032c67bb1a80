"""The experiment on generated digits runs, and goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from experiments.generate_digits import PRESETS, run
from experiments.generation.recognizer import frechet
from gmn_opt.generate.digits import NAME, load_digits


def test_smoke(tmp_path: Path) -> None:
    console = Console(quiet=True)
    record = run(PRESETS["smoke"], 0, tmp_path, False, console)
    assert set(record["kinds"]) >= {"generated", "noise of the class (no flow)"}
    assert json.loads((tmp_path / "result.json").read_text())["kinds"] == record["kinds"]
    assert (tmp_path / "sheet.png").stat().st_size > 500
    generator = load_digits(tmp_path / f"{NAME}.safetensors")
    assert generator.conditions.classes == tuple(range(10))
    again = run(PRESETS["smoke"], 0, tmp_path, True, console)
    assert again["kinds"] == record["kinds"]


def test_frechet_distance_of_known_gaussians() -> None:
    random = torch.Generator().manual_seed(0)
    a: Tensor = torch.randn(20_000, 3, generator=random)
    b = torch.randn(20_000, 3, generator=random) * 2 + 1
    assert frechet(a, a) == pytest.approx(0, abs=1e-8)
    # |mean|^2 + sum of (1 - 2)^2
    assert frechet(a, b) == pytest.approx(3 + 3, rel=0.05)
