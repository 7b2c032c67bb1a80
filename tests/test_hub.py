"""Weights in folders, and a stand-in for a hub that keeps repositories in folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import huggingface_hub
import pytest
import torch
from torch import nn

from gmn_opt import GMNOptimizer, predict_accuracy
from gmn_opt.generate import Generator
from gmn_opt.hub import from_pretrained, kind_of, push_to_hub, save_pretrained
from gmn_opt.inr import WeightEditor, load_editor
from gmn_opt.optim import LearnedRule, RuleConfig, load_rule
from gmn_opt.predict import CalibratedPredictor
from gmn_opt.weights import WeightsError, find, path_of

FILES = {"README.md", "card.json", "weights.safetensors"}


class Hub:
    """What is asked of `huggingface_hub`, with a folder in the place of the network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[dict[str, Any]] = []

    def api(self, token: str | None = None) -> Hub:
        self.asked.append({"token": token})
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        self.asked.append({"private": private})
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: str,
        allow_patterns: list[str],
        revision: str | None,
        commit_message: str,
    ) -> str:
        for name in allow_patterns:
            shutil.copyfile(Path(folder_path) / name, self.root / repo_id / name)
        return f"hub://{repo_id}/commit/{revision or 'main'}"

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str | None,
        token: str | None,
        cache_dir: str | None,
        allow_patterns: list[str],
    ) -> str:
        assert set(allow_patterns) == FILES
        self.asked.append({"revision": revision})
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", made.api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def small_rule() -> LearnedRule:
    torch.manual_seed(3)
    rule = LearnedRule(RuleConfig(hidden=4, edge_hidden=2, layers=1, every=3))
    for p in rule.parameters():
        nn.init.normal_(p, std=0.1)
    return rule


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_folder_is_taken_wherever_weights_are(tmp_path: Path) -> None:
    rule = small_rule()
    folder = save_pretrained(rule, tmp_path / "mine", {"what": "a trial", "seed": 3})
    assert {p.name for p in folder.iterdir()} == FILES
    card = json.loads((folder / "card.json").read_text("utf-8"))
    assert card == {"kind": "learned rule", "what": "a trial", "seed": 3}
    page = (folder / "README.md").read_text("utf-8")
    assert page.startswith("---\nlibrary_name: gmn-opt\n")
    assert "# A trial" in page

    model = nn.Linear(2, 2)
    for weights in (folder, str(folder), folder / "weights.safetensors"):
        assert same(load_rule(weights), rule)
        assert same(from_pretrained(weights), rule)
    optimizer = GMNOptimizer(model.parameters(), weights=folder)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def test_pushed_and_fetched(hub: Hub) -> None:
    rule = small_rule()
    where = push_to_hub(rule, "someone/rule", {"what": "x"}, private=True, token="t")
    assert where == "hub://someone/rule/commit/main"
    assert {p.name for p in (hub.root / "someone/rule").iterdir()} == FILES
    found = from_pretrained("someone/rule", revision="abc")
    assert isinstance(found, LearnedRule)
    assert same(found, rule)
    assert hub.asked == [{"token": "t"}, {"private": True}, {"revision": "abc"}]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("accuracy", CalibratedPredictor),
        ("inr-dilate-grey", WeightEditor),
        ("generate-digits", Generator),
        ("default", LearnedRule),
    ],
)
def test_every_kind_that_ships(hub: Hub, tmp_path: Path, name: str, kind: type) -> None:
    push_to_hub(name, f"someone/{name}")
    folder = hub.root / "someone" / name
    assert json.loads((folder / "card.json").read_text("utf-8"))["name"] == name
    found: Any = from_pretrained(f"someone/{name}")
    assert type(found) is kind
    again = save_pretrained(cast(Any, found), tmp_path / "again", {})
    assert kind_of(again / "weights.safetensors") == kind_of(path_of(name))
    if isinstance(found, WeightEditor):
        assert same(load_editor(str(folder)), found)
    if isinstance(found, CalibratedPredictor):
        torch.manual_seed(0)
        model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), torch.zeros(1, 1, 28, 28)
        expected = predict_accuracy(model, inputs)
        assert predict_accuracy(model, inputs, weights=found) == expected
        assert predict_accuracy(model, inputs, weights=again) == expected


def test_what_is_refused(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"has no weights.safetensors"):
        load_rule(tmp_path / "empty")
    with pytest.raises(WeightsError, match="There are no weights 'nix'"):
        from_pretrained("nix")
    with pytest.raises(WeightsError, match="No weights named 'nix'"):
        find("nix")
    (hub.root / "someone" / "bare").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"has no weights.safetensors"):
        from_pretrained("someone/bare")
    with pytest.raises(TypeError, match="A Linear cannot be shared"):
        save_pretrained(nn.Linear(1, 1), tmp_path / "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="JSON"):
        save_pretrained(small_rule(), tmp_path / "x", {"deep": _nested(30)})


def _nested(levels: int) -> dict[str, Any]:
    return {"a": _nested(levels - 1)} if levels else {}


def test_a_shipped_name_goes_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(small_rule(), "default")
    assert find("default") == path_of("default")
    assert find("./default") == Path("default") / "weights.safetensors"
