"""The alignment experiment writes its records and its picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from experiments import align


def test_the_smoke_preset(tmp_path: Path) -> None:
    align.main("smoke", tmp_path, kinds="mlp,resnet")
    for kind in ("mlp", "resnet"):
        record = json.loads((tmp_path / f"{kind}.json").read_text())
        (pair,) = record["pairs"]
        assert tuple(pair["curves"]) == align.CURVES
        for name, curve in pair["curves"].items():
            assert all(len(curve[m]) == record["preset"]["points"] for m in align.MEASURES)
            assert pair["barriers"][name]["test_loss"] >= 0
        ends = [(c["test_loss"][0], c["test_loss"][-1]) for c in pair["curves"].values()]
        assert ends[1:] == [pytest.approx(ends[0], rel=1e-3)] * 3
    assert (tmp_path / "paths.png").stat().st_size > 1000


def test_unknown_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        align.main("huge", tmp_path)
    assert "Presets are smoke, cpu" in capsys.readouterr().out
