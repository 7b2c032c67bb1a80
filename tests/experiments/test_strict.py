"""Editors of several copies: what they emit, their collapse, and equivariance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer

from experiments.inr import data, strict
from experiments.inr.copies import copies_editor, side_by_side
from gmn_opt.inr import EditorConfig, Siren, SirenConfig, WeightEditor, render, stack

TINY = EditorConfig(hidden=8, edge_hidden=4, layers=2)
SIREN = SirenConfig(2, 1, (6, 5))


def made(copies: int) -> WeightEditor:
    """An editor that changes something, in float64."""
    torch.manual_seed(0)
    editor = copies_editor(copies)(SIREN, TINY).double()
    with torch.no_grad():
        for p in editor.parameters():
            p.add_(torch.randn_like(p) / 4)
    return editor


@torch.no_grad()
def test_copies_differ_and_one_wide_network_shows_their_mean() -> None:
    editor, params = made(3), stack([Siren(SIREN).double() for _ in range(4)])
    many = editor(params, SIREN)
    assert many["layers.1.weight"].shape == (3, 4, 5, 6)
    assert float((many["layers.1.weight"][0] - many["layers.1.weight"][1]).abs().max()) > 1e-3
    shown = editor.show(params, SIREN, (7, 7))
    wide, config = side_by_side(many, SIREN)
    assert config.widths == (18, 15)
    assert torch.allclose(render(config.build().double(), (7, 7), wide), shown, atol=1e-10)


@torch.no_grad()
def test_permuted_neurons_are_edited_the_same() -> None:
    editor, params = made(2), stack([Siren(SIREN).double() for _ in range(3)])
    graph = editor.graph_of(SIREN)
    symmetry = graph.random_symmetry(torch.Generator().manual_seed(1))
    moved = {n: torch.empty_like(p) for n, p in params.items()}
    for i in range(3):
        for name, p in graph.permute({n: t[i] for n, t in params.items()}, symmetry).items():
            moved[name][i] = p
    before, after = (editor.show(p, SIREN, (6, 6)) for p in (params, moved))
    assert float((before - after).abs().max()) < 1e-10


def test_editors_of_copies_read_weights_alone() -> None:
    with pytest.raises(ValueError, match="weights alone"):
        copies_editor(2)(SIREN, EditorConfig(rounds=2, grid=6))


def test_the_experiment_says_what_each_row_sees(tmp_path: Path) -> None:
    inrs = tmp_path / "inrs"
    data.main(data="mnist", out=inrs, count="6,3,3", widths="8,8", steps=20, shard=4)
    strict.main(preset="smoke", out=tmp_path, inrs=inrs, copies="1,2", seconds=0.2)
    record = json.loads((tmp_path / "result.json").read_text())
    one, two = record["runs"]
    # of one copy, all ways to make it one are the same
    assert one["errors"]["mean_of_weights"] == pytest.approx(one["errors"]["side_by_side"])
    assert two["errors"]["mean_of_renderings"] == pytest.approx(
        two["errors"]["side_by_side"], rel=1e-4
    )
    again, alone = tmp_path / "again", [tmp_path / "result.json"]
    strict.main(preset="smoke", out=again, inrs=inrs, copies="", seconds=0.2, others=alone)
    assert json.loads((again / "result.json").read_text())["runs"] == record["runs"]
    with pytest.raises(typer.Exit):
        strict.main(preset="smoke", out=again, inrs=inrs, copies="", seconds=0.3, others=alone)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert sum("gradients" in line for line in lines) == 1
    assert sum(line.startswith("| ours, mean of renderings | weights |") for line in lines) == 2
