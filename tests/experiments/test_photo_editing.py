"""Training of photo editors, as one runs it, on one photograph that ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import photo_editing
from gmn_opt.data import load_photograph
from gmn_opt.inr import load_editor, save_editor
from gmn_opt.inr.photo_training import new_photo_editor
from gmn_opt.inr.tiled_editing import for_family
from gmn_opt.inr.tiled_fitting import photo_config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds an editor with rounds; the collection of photographs is the cat alone."""
    monkeypatch.setattr(photo_editing, "load_photo", lambda _: load_photograph())
    monkeypatch.setattr(photo_editing, "names", lambda _: ("cat",))
    monkeypatch.setattr(photo_editing, "licence", lambda _: "Stefan van der Walt, CC0")
    save_editor(tmp_path / "rounds.safetensors", new_photo_editor("photo-warm"), {"rounds": {}})
    return tmp_path


def test_a_predictor_is_trained_on(folder: Path) -> None:
    """What was trained before is kept in the record, and the rounds stay as they are."""
    rounds, first, second = folder / "rounds.safetensors", folder / "first", folder / "second"
    photo_editing.main(
        "warm", first, "smoke", rounds=rounds, predictor_only=True, predictor_seconds=0.4
    )
    before = json.loads((first / "result.json").read_text())
    photo_editing.main(
        "warm", second, "smoke", rounds=rounds, predictor_only=True, predictor_seconds=0.2,
        predictor=first / "editor.safetensors",
    )  # fmt: skip
    after = json.loads((second / "result.json").read_text())
    began = after["predictor"]["began_as"]
    assert began["steps"] == before["predictor"]["steps"]
    assert after["predictor"]["seconds"] > began["seconds"]
    one, two = (load_editor(f / "editor.safetensors").state_dict() for f in (first, second))
    moved = {n for n, t in one.items() if not torch.equal(t, two[n])}
    assert moved
    assert all(".predictor." in n for n in moved)


def test_a_part_keeps_the_commit_that_trained_it(folder: Path) -> None:
    """Also when it is taken over from an editor that had taken it over."""
    weights, out = folder / "known" / "editor.safetensors", folder / "out"
    weights.parent.mkdir()
    about = {"rounds": {"commit": "earlier"}, "predictor": {"steps": 1}}
    save_editor(weights, new_photo_editor("photo-warm"), about)
    weights.with_name("result.json").write_text('{"environment": {"commit": "later"}}')
    for known in (weights, out / "editor.safetensors"):
        photo_editing.main("warm", out, "smoke", rounds=known, predictor=known, predictor_only=True)
        record = json.loads((out / "result.json").read_text())
        commits = {part: record[part]["commit"] for part in about}
        assert commits == {"rounds": "earlier", "predictor": "later"}


def test_what_becomes_of_a_photograph(folder: Path) -> None:
    """Bounds, seams and pictures, here of tiles of grids."""
    editor = for_family(load_editor("photo-warm", 3), photo_config(3, family="grid"))
    found = photo_editing.judge_one(editor, "cat", 56, folder / "fits", (1.0,))
    assert found["test_mse"] < 0.3 * found["no_edit"]
    assert found["seam_ratio"] < 1.3 * found["seam_ratio_of_reference"]
    assert list(found["shown"]) == [
        "photograph", "its network", "strength 1", "reference", "error",
    ]  # fmt: skip
    assert len(list((folder / "fits").glob("*-grid.safetensors"))) == 2
