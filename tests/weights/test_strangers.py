"""Headers that ask for what the tensors do not hold: refused before anything of it is made."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gmn_opt.generate import Generator
from gmn_opt.inr import (
    EditorConfig,
    FourierConfig,
    GridConfig,
    InrConfig,
    SirenConfig,
    WeightEditor,
    load_editor,
    load_inr,
    save_editor,
)
from gmn_opt.optim import LearnedRule, RuleConfig, load_rule, save_rule
from gmn_opt.predict.losses import objective
from gmn_opt.predict.model import ModelConfig
from gmn_opt.predict.predictor import Predictor
from gmn_opt.predict.process import Process
from gmn_opt.weights import WeightsError, load
from gmn_opt.weights.plain import parse_json
from gmn_opt.weights.shipped import path_of, read_card


def _refused(path: Path, read: Any, match: str) -> None:
    started = time.process_time()
    with pytest.raises(WeightsError, match=match):
        read(path)
    assert time.process_time() - started < 2


def _inr_file(path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    about = {"version": 1, "kind": "inr", "config": {"inr": config, "about": {}}}
    save_file(tensors, path, metadata={"gmn_opt": json.dumps(about)})
    return path


FAMILIES: list[InrConfig] = [
    SirenConfig(widths=(5, 3)),
    SirenConfig(3, 2, (7,)),
    FourierConfig(frequencies=3, widths=(4, 4)),
    GridConfig(resolution=3, channels=2),
    GridConfig(3, 3, widths=(4, 2), resolution=2),
]


@pytest.mark.parametrize("config", FAMILIES, ids=str)
def test_shapes_are_known_without_building(config: InrConfig) -> None:
    built = {n: tuple(p.shape) for n, p in config.build().named_parameters()}
    assert config.shapes() == built


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (SirenConfig(), {"widths": [20_000, 20_000]}),
        (SirenConfig(), {"widths": [10**9, 10**9]}),
        (SirenConfig(), {"widths": [1] * 100_000}),
        (SirenConfig(), {"inputs": 10**9}),
        (SirenConfig(), {"outputs": True}),
        (SirenConfig(), {"family": []}),
        (SirenConfig(), {"family": "perceptron"}),
        (SirenConfig(), {"omega": "30"}),
        (SirenConfig(), {"omega": 0}),
        (SirenConfig(), {"value_range": [1]}),
        (SirenConfig(), {"value_range": ["a", "b"]}),
        (SirenConfig(), {"widths": "32"}),
        (FourierConfig(), {"frequency_seed": -1}),
        (FourierConfig(), {"frequency_seed": 2**32}),
        (FourierConfig(), {"frequencies": 10**8}),
        (GridConfig(), {"resolution": 30_000}),
        (GridConfig(), {"resolution": 10**9, "inputs": 10**6}),
        (GridConfig(), {"channels": 2.5}),
    ],
    ids=str,
)
def test_inrs_that_ask_for_the_impossible(
    tmp_path: Path, config: InrConfig, change: dict[str, Any]
) -> None:
    path = _inr_file(
        tmp_path / "x.safetensors", {**config.to_dict(), **change}, {"a": torch.ones(1)}
    )
    _refused(path, load_inr, "does not fit the inr of this gmn-opt")


@pytest.mark.parametrize("read", [load_inr, load_editor, load_rule])
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"version": 1, "kind": "inr", "config": ' + '{"a": ' * 300 + "1" + "}" * 300 + "}",
        '{"version": ' + "1" * 5000 + "}",
        '{"version": 1, "kind": "inr", "config": {"inr": {}, "about": ' + "9" * 19 + "}}",
        '{"version": 1, "kind": "\\ud800", "config": {}}',
        '{"version": 1, "kind": [], "config": {}}',
        '{"version": 1, "kind": "inr", "config": []}',
        '{"version": true, "kind": "inr", "config": {}}',
        '{"version": [1], "kind": "inr", "config": {}}',
        " " * 2_000_000 + "{}",
        "",
    ],
    ids=range(11),
)
def test_metadata_that_is_none(tmp_path: Path, read: Any, text: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata={"gmn_opt": text})
    _refused(path, read, "not one of gmn-opt's|format version")


def _changed(path: Path, part: str | None, change: dict[str, Any]) -> Path:
    """A file with other entries in its config, or in a part of it; the tensors stay."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["gmn_opt"])
    where = about["config"] if part is None else about["config"][part]
    where.update(change)
    header["__metadata__"]["gmn_opt"] = json.dumps(about)
    made = json.dumps(header).encode()
    path.write_bytes(len(made).to_bytes(8, "little") + made + content[8 + size :])
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 10_000_000},
        {"layers": 0},
        {"hidden": 0},
        {"hidden": 20_000},
        {"hidden": True},
        {"edge_hidden": 10**6},
        {"edge_hidden": "2"},
        {"every": 0},
        {"every": -3},
        {"neurons": 1},
        {"messages": 0},
        {"messages": False},
        {"mixture": "some"},
        {"mixture": ["all"]},
        {"mixture": "none"},
        {"neurons": True},
        {"colour": 1},
    ],
    ids=str,
)
def test_rules_that_ask_for_the_impossible(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "r.safetensors"
    save_rule(path, LearnedRule(RuleConfig(hidden=5, edge_hidden=2, layers=1)))
    load_rule(path)
    _refused(_changed(path, None, change), load_rule, "does not fit the learned rule")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("editor", {"layers": 10_000_000}),
        ("editor", {"hidden": 20_000}),
        ("editor", {"hidden": None}),
        ("editor", {"frequencies": 10**8}),
        ("editor", {"frequencies": -1}),
        ("editor", {"probes": 10**9}),
        ("editor", {"rounds": 10**7}),
        ("editor", {"vision": 10**5}),
        ("editor", {"grid": 10**6}),
        ("editor", {"settle": 10**6}),
        ("editor", {"places": False}),
        ("editor", {"places": 2}),
        ("editor", {"gain": "4"}),
        ("editor", {"edit": []}),
        ("editor", {"nothing": 1}),
        ("inr", {"widths": [20_000, 20_000]}),
        ("inr", {"widths": [1] * 5000}),
        ("inr", {"inputs": 10**9}),
        ("inr", {"omega": -1}),
        (None, {"inr": []}),
        (None, {"editor": None}),
        (None, {"about": [1, 2]}),
    ],
    ids=str,
)
def test_editors_that_ask_for_the_impossible(
    tmp_path: Path, part: str | None, change: dict[str, Any]
) -> None:
    path = tmp_path / "e.safetensors"
    sizes = EditorConfig(hidden=4, edge_hidden=2, layers=1, rounds=1, probes=2, vision=2)
    save_editor(path, WeightEditor(SirenConfig(widths=(4, 4)), sizes))
    load_editor(path)
    _refused(_changed(path, part, change), load_editor, "does not fit the inr editor|describes no")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", {"hidden": 10**6}),
        ("model", {"hidden": 0}),
        ("model", {"embedding": 10**9}),
        ("model", {"layers": 10**7}),
        ("model", {"layers": -1}),
        ("model", {"ends": [[10**6, 10**6]]}),
        ("model", {"kind": "oracle"}),
        ("process", {"kept": 10**12}),
        ("process", {"outputs": 10**9}),
        ("process", {"ends": [[10**9, 10**9]]}),
        (None, {"members": 10**7}),
        (None, {"members": True}),
        (None, {"process": None}),
        (None, {"objective": {}}),
    ],
    ids=str,
)
def test_predictors_that_ask_for_the_impossible(
    tmp_path: Path, part: str | None, change: dict[str, Any]
) -> None:
    path = tmp_path / "p.safetensors"
    config = {"kind": "graph", **ModelConfig(hidden=4, edge_hidden=2, layers=1).to_dict()}
    config["ends"] = [[2, 1]]
    process = Process({"ends": [[2, 1]], "outputs": 1, "kept": 3})
    goal = objective("mse")({"mean": [0.0], "std": [1.0], "flat": True})
    Predictor(config, goal, 1, None, {}, process.double(), 0.5).save(path)
    Predictor.load(path)
    _refused(_changed(path, part, change), Predictor.load, "does not fit this gmn-opt")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("field", {"hidden": 10**6}),
        ("field", {"layers": 10**7}),
        ("field", {"probes": 10**9}),
        ("field", {"probes": 26}),
        ("field", {"anchors": 7}),
        ("field", {"anchors": 10**9}),
        ("field", {"anchors": True}),
        ("field", {"answers": "l1"}),
        ("field", {"carried": -1}),
        ("inr", {"widths": [20_000, 20_000]}),
        ("inr", {"widths": [1] * 5000}),
        ("about", {"flow": 3}),
        ("about", {"flow": {"corrections": "many"}}),
        ("about", {"flow": {"corrections": 10**9}}),
        (None, {"field": None}),
        (None, {"inr": []}),
        (None, {"conditions": 3}),
    ],
    ids=str,
)
def test_generators_that_ask_for_the_impossible(
    tmp_path: Path, part: str | None, change: dict[str, Any]
) -> None:
    path = tmp_path / "g.safetensors"
    path.write_bytes(path_of("generate-digits").read_bytes())
    Generator.load(path)
    _refused(_changed(path, part, change), Generator.load, "does not fit|describes no")


@pytest.mark.parametrize("name", ["net.²", "net.٣", "net." + "9" * 350, "é" * 300])
def test_odd_names_in_foreign_networks(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"{name}.weight": torch.ones(2, 2), f"{name}.bias": torch.ones(2)}, path)
    _refused(path, load_inr, "no SIREN")
    ends = {f"{name}.weight": torch.ones(3, 2), f"{name}.bias": torch.ones(3)}
    more = {f"{name}x.weight": torch.ones(1, 3), f"{name}x.bias": torch.ones(1)}
    save_file({**ends, **more}, path)
    assert load_inr(path).config.widths == (3,)


@pytest.mark.parametrize("name", ["9" * 5000, "net.\x1b[2J", "net.\n", "net.\x00"])
def test_names_that_cannot_be_shown(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"{name}.weight": torch.ones(2, 2), f"{name}.bias": torch.ones(2)}, path)
    for read in (load_inr, load_rule, load_editor):
        _refused(path, read, "can be printed")


def test_layer_ten_comes_after_layer_nine(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {}
    for i in range(12):
        tensors[f"n.{i}.weight"] = torch.full((2, 2), float(i))
        tensors[f"n.{i}.bias"] = torch.ones(2)
    save_file(tensors, path)
    found = [
        float(p.detach()[0, 0])
        for n, p in load_inr(path).named_parameters()
        if n.endswith("weight")
    ]
    assert found == [float(i) for i in range(12)]


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (3000, 1)])
def test_foreign_networks_of_odd_sizes(tmp_path: Path, shape: tuple[int, int]) -> None:
    path, tensors = tmp_path / "x.safetensors", {}
    for i in range(2000 if shape[0] == 3000 else 2):
        tensors[f"n{i}.weight"] = torch.ones(shape if i < 2 else (1, 1))
        tensors[f"n{i}.bias"] = torch.ones(tensors[f"n{i}.weight"].shape[0])
    save_file(tensors, path)
    _refused(path, load_inr, "no SIREN")


def test_too_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({str(i): torch.ones(1) for i in range(5000)}, path)
    for read in (load_inr, load_rule, load_editor):
        _refused(path, read, "5,000 tensors")


def test_numbers_that_float32_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {n: torch.ones(s, dtype=torch.float64) for n, s in SirenConfig().shapes().items()}
    tensors["layers.0.weight"][0, 0] = 1e200
    _refused(_inr_file(path, SirenConfig().to_dict(), tensors), load_inr, "beyond those of float32")


@pytest.mark.parametrize(
    "text", ["[1]", "[" * 9999, '{"a": ' + "1" * 5000 + "}", '"\\udfff"', "\x00", "{" + " " * 2**21]
)
def test_cards_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    _refused(path, read_card, "missing or damaged")


@pytest.mark.parametrize("bad", ["1" * 19, "-" + "1" * 19, "[" * 22 + "]" * 22, '{"\\ud800": 1}'])
def test_json_out_of_bounds(bad: str) -> None:
    with pytest.raises(ValueError, match=r"digits|levels|surrogates"):
        parse_json(bad)
    assert parse_json("1" * 18) == int("1" * 18)
    assert parse_json("[" * 20 + "]" * 20)


def test_messages_show_no_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    about = {"version": 1, "kind": "\x1b[31mred" + "x" * 10_000, "config": {}}
    save_file({"a": torch.ones(1)}, path, metadata={"gmn_opt": json.dumps(about)})
    with pytest.raises(WeightsError) as caught:
        load(path, "inr")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
