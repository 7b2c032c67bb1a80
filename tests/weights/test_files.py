"""Weight files: exact both ways, and one clear error for everything else."""

from __future__ import annotations

import hashlib
import json
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gmn_opt.generate.digits import NAME as DIGITS
from gmn_opt.generate.digits import load_digits
from gmn_opt.inr import load_editor, shipped_editors
from gmn_opt.optim import LearnedRule, RuleConfig, load_rule, save_rule
from gmn_opt.predict import CalibratedPredictor
from gmn_opt.weights import (
    FORMAT_VERSION,
    WeightsError,
    WeightSet,
    available,
    card,
    load,
    save,
    shipped,
)
from gmn_opt.weights.headers import OpenFile

KIND = "thing"
TENSORS = {
    "matrix": torch.linspace(-1, 1, 6).view(2, 3),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "double": torch.tensor([1e-300, torch.pi], dtype=torch.float64),
    "half": torch.tensor([0.1, 65504.0], dtype=torch.float16),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "odd": torch.tensor([3.4e38, -0.0]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    save(path, WeightSet("some", KIND, {"width": 3, "names": ["a"]}, TENSORS))
    return path


def test_round_trip_is_exact(path: Path) -> None:
    found = load(path, KIND)
    assert (found.name, found.kind, found.config) == ("some", KIND, {"width": 3, "names": ["a"]})
    assert found.tensors.keys() == TENSORS.keys()
    for name, t in TENSORS.items():
        back = found.tensors[name]
        assert back.dtype == t.dtype
        assert back.shape == t.shape
        assert back.numpy().tobytes() == t.contiguous().numpy().tobytes()


def test_tensors_that_share_memory_or_need_gradients_are_written(tmp_path: Path) -> None:
    base = torch.arange(4.0, requires_grad=True)
    tensors = {"whole": base, "again": base, "part": base[1:3]}
    save(tmp_path / "x.safetensors", WeightSet("x", KIND, {}, tensors))
    found = load(tmp_path / "x.safetensors", KIND).tensors
    assert all(torch.equal(found[n], t) for n, t in tensors.items())
    assert not found["whole"].requires_grad


def test_files_get_ordinary_modes_and_nothing_else_is_left(path: Path) -> None:
    plain = path.with_name("plain")
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert {p.name for p in path.parent.iterdir()} == {"some.safetensors", "plain"}


def test_a_full_disk_keeps_the_old_file(path: Path) -> None:
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, WeightSet("some", KIND, {}, {"a": torch.zeros(100_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("keep", [0, 5, 40, 400, -1])
def test_truncated(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"some\.safetensors is cut off or damaged"):
        load(path, KIND)


def test_bytes_added_at_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(WeightsError, match="cut off or damaged"):
        load(path, KIND)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"gmn_opt": "no json"},
        {"gmn_opt": "[1]"},
        {"gmn_opt": "{}"},
        {"gmn_opt": json.dumps({"version": FORMAT_VERSION, "kind": KIND})},
    ],
)
def test_foreign_safetensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(WeightsError, match="not one of gmn-opt's"):
        load(path, KIND)


def test_another_version(tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    save_file({"w": torch.zeros(2)}, path, metadata={"gmn_opt": '{"version": 99}'})
    with pytest.raises(
        WeightsError, match=f"version 99, this gmn-opt reads version {FORMAT_VERSION}"
    ):
        load(path, KIND)


def test_another_kind(path: Path) -> None:
    with pytest.raises(WeightsError, match="weights of a thing, not of a weight editor"):
        load(path, "weight editor")


@pytest.mark.parametrize("axes", [17, 64, 65])
def test_too_many_axes(tmp_path: Path, axes: int) -> None:
    save_file({"x": torch.ones((1,) * axes)}, tmp_path / "many.safetensors")
    with pytest.raises(WeightsError, match=f"has {axes} axes, at most 16"):
        OpenFile(tmp_path / "many.safetensors")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file at"):
        load(tmp_path / "none.safetensors", KIND)
    with pytest.raises(WeightsError, match="has no weights.safetensors"):
        load(tmp_path, KIND)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none_are_refused(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    path = tmp_path / "some.safetensors"
    tensors = {"whole": torch.ones(3), "broken": torch.tensor([1.0, bad], dtype=dtype)}
    save(path, WeightSet("some", KIND, {}, tensors))
    with pytest.raises(WeightsError, match="'broken' holds NaN or infinity"):
        load(path, KIND)


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_dtypes_that_are_no_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "some.safetensors"
    save(path, WeightSet("some", KIND, {}, {"odd": torch.ones(2).to(dtype)}))
    with pytest.raises(WeightsError, match=f"'odd' has dtype {dtype}"):
        load(path, KIND)


def test_a_name_that_does_not_ship() -> None:
    with pytest.raises(WeightsError, match="No weights named 'nonesuch' ship.*pass its path"):
        shipped.path_of("nonesuch")
    with pytest.raises(WeightsError, match="No weights named 'nonesuch' ship"):
        load_rule("nonesuch")


def test_shipped_weights_load_and_have_cards() -> None:
    for name in available():
        about = card(name)
        # weights that stand in until a run is complete say so in a note
        assert about["name"] == name
        assert "note" in about or {"command", "commit", "seed", "data", "compute"} <= about.keys()
        loaded: nn.Module
        if name == "accuracy":
            loaded = CalibratedPredictor.load(shipped.path_of(name)).predictor
        elif name == DIGITS:
            loaded = load_digits().field
        else:
            loaded = load_editor(name) if name in shipped_editors() else load_rule(name)
        assert all(bool(p.isfinite().all()) for p in loaded.parameters())
        content = shipped.path_of(name).read_bytes()
        assert about["sha256"] == hashlib.sha256(content).hexdigest()


def test_an_editor_is_no_rule() -> None:
    with pytest.raises(WeightsError, match="inr-dilate-grey"):
        load_rule("inr-dilate-grey")


def test_a_missing_or_damaged_card(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path)
    assert available() == ["some"]
    with pytest.raises(WeightsError, match="model card .* missing or damaged"):
        card("some")
    path.with_suffix(".json").write_text("{")
    with pytest.raises(WeightsError, match="model card .* missing or damaged"):
        card("some")
    path.with_suffix(".json").write_text('{"seed": 0}')
    assert card("some") == {"seed": 0}


@pytest.mark.parametrize(
    "config",
    [
        RuleConfig(hidden=5, edge_hidden=2, layers=1),
        RuleConfig(hidden=5, edge_hidden=2, layers=3, messages=False),
        RuleConfig(hidden=5, edge_hidden=2, layers=1, neurons=True, mixture="none"),
    ],
    ids=["default", "no_messages", "gains_no_mixture"],
)
def test_rules_round_trip(tmp_path: Path, config: RuleConfig) -> None:
    rule = LearnedRule(config)
    with torch.no_grad():
        for p in rule.parameters():
            p.normal_()
    save_rule(tmp_path / "r.safetensors", rule)
    found = load_rule(tmp_path / "r.safetensors")
    assert found.config == rule.config
    assert not found.training
    for (name, a), (other, b) in zip(
        rule.named_parameters(), found.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
        assert not b.requires_grad


@pytest.mark.parametrize("change", ["size", "missing", "unknown"])
def test_a_rule_that_does_not_fit(tmp_path: Path, change: str) -> None:
    path = tmp_path / "r.safetensors"
    rule = LearnedRule(RuleConfig(hidden=5, edge_hidden=2, layers=1))
    config, tensors = rule.config.to_dict(), dict(rule.state_dict())
    if change == "size":
        config["hidden"] = 6
    elif change == "missing":
        tensors.popitem()
    else:
        config["colour"] = 1
    save(path, WeightSet("r", "learned rule", config, tensors))
    with pytest.raises(WeightsError, match="does not fit the learned rule of this gmn-opt"):
        load_rule(path)
