"""Learning curves of meta-training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.plot_meta_training import app as plot_app
from experiments.plot_meta_training import plot, smooth


def test_moving_averages() -> None:
    assert smooth([2.0, 2.0, 2.0], 10) == pytest.approx([2.0] * 3)
    values = smooth([None, 1.0, float("nan"), 3.0], 2)
    assert values[0] != values[0]
    assert values[1:3] == [1.0, 1.0]
    assert values[3] == pytest.approx(1 + 2 * 0.5 / 0.75)
    assert smooth([1.0, 5.0], 1) == [1.0, 5.0]


def test_curves(whole: Path, tmp_path: Path) -> None:
    lines = (whole / "log.jsonl").read_text().splitlines()
    broken = json.loads(lines[3])
    broken.update(loss=None, meta_loss=None, grad_norm=None, event="non-finite")
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, json.dumps(broken), '{"step": ']))
    assert CliRunner().invoke(plot_app, [str(tmp_path)]).exit_code == 0
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    old = [json.loads(line) for line in lines]  # logs of the first release know no validation
    for record in old:
        record.pop("validation", None)
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(r) for r in old))
    assert plot(tmp_path / "log.jsonl", tmp_path / "old.png")
    assert (tmp_path / "old.png").stat().st_size > 10_000
    (tmp_path / "log.jsonl").write_text("")
    assert not plot(tmp_path / "log.jsonl", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    done = CliRunner().invoke(plot_app, [str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "There is no" in done.output
