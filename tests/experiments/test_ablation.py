"""The ablation makes every cell once, and its table says what the cells hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from experiments import ablation
from gmn_opt.optim import load_rule
from tasks.suites import validation


@pytest.fixture(autouse=True)
def two_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "validation", lambda: validation()[:2])


def test_cells_are_made_once_and_the_table_says_what_they_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> str:
        ablation.main("smoke", tmp_path, "blocks,small-pes", 1, shares="0.5,1")
        return capsys.readouterr().out

    assert run().count("outer steps,") == 2
    cells = sorted(path.name for path in (tmp_path / "cells").iterdir())
    assert cells == ["blocks-0.json", "blocks-0.safetensors", "small-pes-0.json"]
    assert not load_rule(str(tmp_path / "cells" / "blocks-0.safetensors")).config.messages
    record = json.loads((tmp_path / "result.json").read_text())
    assert [(r["variant"], r["share"]) for r in record["table"]] == [
        ("blocks", "0.5"), ("blocks", "1"), ("small-pes", "1"),
    ]  # fmt: skip
    for row in record["table"]:
        (cell,) = (c for c in record["cells"] if c["variant"] == row["variant"])
        judged = cell["shares"][row["share"]]
        assert row["score"] == judged["score"]
        assert row["worst"] == max(judged["ratios"].values())
        assert row["spread"] is None
    before = (tmp_path / "cells" / "blocks-0.json").stat().st_mtime_ns
    assert "outer steps," not in run()
    assert (tmp_path / "cells" / "blocks-0.json").stat().st_mtime_ns == before


def test_what_is_learned_is_all_that_differs_between_variants() -> None:
    first = ablation.VARIANTS["graph"].to_dict()
    for name, config in ablation.VARIANTS.items():
        differing = {k for k, v in config.to_dict().items() if v != first[k]}
        assert differing <= {"rule", "estimator"}, name
    assert ablation.VARIANTS.keys() == ablation.TITLES.keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variants": "graph,luck"}, "luck"),
        ({"shares": "0.5,2"}, "--shares takes numbers in (0, 1]"),
        ({"preset": "huge"}, "huge"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        ablation.main(**{"preset": "smoke", "out": tmp_path, **options})  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert said in capsys.readouterr().out
