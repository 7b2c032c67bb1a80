"""Data sets of INRs, editing and classification, each as one runs it, in miniature."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from experiments import release_editor
from experiments.benchmarks import inr_fitting
from experiments.inr import classification, data, edit_report, editing, editing_table, fitters
from experiments.inr.classifiers import CLASSIFIERS, LISTENING, Drawn
from experiments.inr.editors import EDITORS, new_editor
from gmn_opt import trace
from gmn_opt.cli.settings import with_settings
from gmn_opt.inr import (
    EditorConfig,
    EditTrainer,
    FitConfig,
    InrSet,
    SirenConfig,
    TrainConfig,
    fit_images,
    load_editor,
    load_inr_set,
    render,
)
from gmn_opt.inr.edit_training import rendered_edits
from tasks.inr_data import PATCH, PHOTOS, load_split

TINY = EditorConfig(hidden=8, edge_hidden=4, layers=2, probes=4, rounds=2, grid=14, vision=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a few small INRs of MNIST."""
    out = tmp_path_factory.mktemp("inrs") / "mnist"
    data.main(data="mnist", out=out, count="6,3,3", widths="8,8", steps=20, shard=4)
    return out


def small(count: int = 4) -> InrSet:
    images = load_split("mnist", "train", (count, 1, 1)).images[:, ::2, ::2].contiguous()
    return fit_images(images, SirenConfig(widths=(8, 8)), FitConfig(40))


def test_a_data_set_says_how_it_was_made(folder: Path) -> None:
    record = json.loads((folder / "dataset.json").read_text())
    assert record["target_range"] == [-1.0, 1.0]
    assert {s: v["count"] for s, v in record["splits"].items()} == {
        "train": 6, "valid": 3, "test": 3,
    }  # fmt: skip
    sets = {s: load_inr_set(folder / s) for s in ("train", "valid", "test")}
    first = [s.manifest["seed"] for s in sets.values()]
    assert len(set(first)) == 3  # or images at the same place would start alike
    assert sets["test"].labels is not None
    with pytest.raises(typer.Exit):
        data.main(data="mnist", out=folder, count="6,3,3", widths="8,8")
    with pytest.raises(typer.Exit):
        data.main(data="mnist", out=folder / "x", count="6;3")


def test_splits_share_no_image_and_no_photograph() -> None:
    pytest.importorskip("skimage")
    assert len({n for names in PHOTOS.values() for n in names}) == sum(map(len, PHOTOS.values()))
    train = load_split("mnist", "train", (5, 4, 3)).images
    valid = load_split("mnist", "valid", (5, 4, 3)).images
    both = torch.cat([train, valid]).flatten(1)
    assert len(both.unique(dim=0)) == 9
    photos = load_split("photos", "test", (1, 1, 4))
    assert photos.images.shape == (4, PATCH, PATCH, 3)
    again = load_split("photos", "test", (1, 1, 4)).images
    assert torch.equal(photos.images, again)
    other = load_split("photos", "test", (1, 1, 4), seed=1).images
    assert not torch.equal(photos.images, other)
    with pytest.raises(ValueError, match="No images 'cifar'"):
        load_split("cifar", "train", (1, 1, 1))
    with pytest.raises(ValueError, match="at least one image"):
        load_split("mnist", "train", (0, 1, 1))


class TestEditing:
    def test_all_kinds_learn(self) -> None:
        data = small()
        for kind in EDITORS:
            editor = new_editor(kind, data.config, TINY, 0)
            config = TrainConfig(steps=60, batch=4, lr=5e-3, average=0.5)
            trainer = EditTrainer([data], "invert", editor, config, 0, torch.device("cpu"))
            losses = [trainer.advance() for _ in range(60)]
            assert losses[-1] < 0.9 * losses[0], kind
            with torch.no_grad():
                rendered_edits(trainer.result(), data)
        with pytest.raises(ValueError, match="no editor 'cnn'"):
            new_editor("cnn", data.config, TINY, 0)
        with pytest.raises(ValueError, match="rates alone needs rounds"):
            new_editor("rates", data.config, replace(TINY, rounds=0), 0)

    def test_np_nfn_is_equivariant_and_flat_is_not(self) -> None:
        data = small(2)
        params = {n: p.double() for n, p in data.params.items()}
        for kind, equivariant in (("np_nfn", True), ("flat", False)):
            editor = new_editor(kind, data.config, TINY, 0).double()
            with torch.no_grad():
                for p in editor.metanet.parameters():
                    p.add_(torch.randn_like(p) / 4)
                sym = editor.graph.random_symmetry()
                a = editor(editor.graph.permute(params, sym))
                b = editor.graph.permute(editor(params), sym)
            assert all(torch.allclose(a[n], b[n], atol=1e-10) for n in a) == equivariant

    def test_as_one_runs_it(self, folder: Path, tmp_path: Path) -> None:
        run: dict[str, Any] = {
            "preset": "smoke",
            "inrs": [folder],
            "out": tmp_path,
            "device": "cpu",
        }
        editing.main(**run, minutes=0.0)
        first = json.loads((tmp_path / "result.json").read_text())
        assert first["steps"] == 1
        assert not first["complete"]
        editing.main(**run, resume=True)
        record = json.loads((tmp_path / "result.json").read_text())
        assert record["complete"]
        assert record["steps"] == 12
        marks = record["bounds"]
        assert 0 < marks["floor"] < marks["identity"]
        assert len(record["curve"]) == 2
        editor = load_editor(tmp_path / "editor.safetensors")
        test = load_inr_set(folder / "test")
        error = edit_report.judge(editor, test, "dilate")
        assert error == pytest.approx(record["test_mse"], rel=1e-4)
        for name in ("curve.png", "gallery.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        self.release(tmp_path, record)
        for wrong in (
            {"edit": "melt"},
            {"kind": "cnn"},
            {"resume": True, "seed": 1},
            {"change": ["hidden=0.5"]},
            {"out": tmp_path / "result.json"},
            {"inrs": [tmp_path / "none"], "data": "none"},
        ):
            with pytest.raises(typer.Exit):
                editing.main(**{**run, **wrong})

    def release(self, run: Path, record: dict[str, Any]) -> None:
        """A run's editor goes into the package with its card, if it is any good."""
        to: dict[str, Any] = {"package": run / "package", "results": run / "results"}
        assert record["test_mse"] > 0.5 * record["bounds"]["identity"]
        with pytest.raises(typer.Exit):
            release_editor.main(run, **to)
        assert not to["package"].exists()
        release_editor.main(run, **to, most=10.0)
        name = "inr-dilate-grey"
        assert sorted(p.name for p in to["package"].iterdir()) == [
            f"{name}.json",
            f"{name}.safetensors",
        ]
        card = json.loads((to["package"] / f"{name}.json").read_text())
        assert card["name"] == name
        assert card["results"]["test_mse"] == record["test_mse"]
        assert card["data"]["inrs"] == {"train": 6, "valid": 3, "test": 3}
        assert load_editor(to["package"] / f"{name}.safetensors").about["size"] == [28, 28]
        assert (to["results"] / "inr_editing" / name / "result.json").is_file()
        for change in ({"complete": False}, {"sha256": "0"}):
            (run / "result.json").write_text(json.dumps({**record, **change}))
            with pytest.raises(typer.Exit):
                release_editor.main(run, **to, most=10.0)

    def test_one_editor_for_several_architectures(self, folder: Path, tmp_path: Path) -> None:
        folders = [folder]
        for name, widths in (("deep", "6,5,4"), ("wide", "12,12")):
            folders.append(tmp_path / name)
            data.main(
                data="mnist", out=folders[-1], count="4,2,2", widths=widths, steps=10, shard=4
            )
        run: dict[str, Any] = {
            "preset": "smoke",
            "inrs": folders[:2],
            "unseen": folders[2:],
            "device": "cpu",
        }
        editing.main(**run, out=tmp_path)
        record = json.loads((tmp_path / "result.json").read_text())
        found = [(t["widths"], t["seen"], t["count"]) for t in record["tests"]]
        assert found == [([8, 8], True, 3), ([6, 5, 4], True, 2), ([12, 12], False, 2)]
        assert record["test_mse"] == pytest.approx(
            (record["tests"][0]["test_mse"] + record["tests"][1]["test_mse"]) / 2
        )
        assert record["inrs"]["train"] == 10
        editor = load_editor(tmp_path / "editor.safetensors")
        wide = load_inr_set(folders[2] / "test")
        error = edit_report.judge(editor, wide, "dilate")
        assert error == pytest.approx(record["tests"][2]["test_mse"], rel=1e-4)
        with pytest.raises(typer.Exit):  # baselines serve one architecture
            editing.main(**run, out=tmp_path / "flat", kind="flat")

    def test_a_run_of_given_time(self, folder: Path, tmp_path: Path) -> None:
        run: dict[str, Any] = {
            "preset": "smoke",
            "inrs": [folder],
            "out": tmp_path,
            "device": "cpu",
        }
        editing.main(**run, train_seconds=0.4, kind="flat", change=["check_every=1000"])
        record = json.loads((tmp_path / "result.json").read_text())
        assert record["complete"]
        assert record["training_seconds"] == pytest.approx(0.4, abs=0.2)
        assert record["training"]["seconds"] == 0.4
        assert len(record["curve"]) >= 1


class TestTable:
    def record(self, **changes: Any) -> dict[str, Any]:
        base = {
            "edit": "dilate", "data": "mnist", "kind": "gmn", "seed": 0, "complete": True,
            "inrs": {"train": 6}, "editor": {"hidden": 8}, "training": {"lr": 0.1, "batch": 4},
            "test_mse": 0.1, "bounds": {"identity": 0.4, "floor": 0.001}, "steps": 10,
            "training_seconds": 2.0, "command": "python -m x", "environment": {},
            "tests": [{"widths": [8, 8], "seen": True}],
        }  # fmt: skip
        return {**base, **changes}

    def test_rows(self, tmp_path: Path) -> None:
        records = [
            self.record(),
            self.record(seed=1, test_mse=0.2),
            self.record(kind="flat", test_mse=0.3, training={"lr": 0.2, "batch": 4}),
            self.record(edit="blur", test_mse=0.05),
        ]
        for number, record in enumerate(records):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / "result.json").write_text(json.dumps(record))
        editing_table.main([tmp_path / str(n) for n in range(4)], out=tmp_path / "table")
        rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
        assert [(r["edit"], r["kind"], r["seeds"]) for r in rows] == [
            ("blur", "gmn", [0]), ("dilate", "gmn", [0, 1]), ("dilate", "flat", [0]),
        ]  # fmt: skip
        lines = (tmp_path / "table" / "table.md").read_text().splitlines()
        assert "| gmn | lr 0.1 | 2 | 0.1500 ± 0.0707 | 0.4000 | 0.0010 | 10 | 2 |" in lines[3]
        assert "settings" not in editing_table.markdown(editing_table.table_of(records[:2]))

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="Finish it with --resume"):
            editing_table.table_of([self.record(complete=False)])
        with pytest.raises(ValueError, match="there twice: seeds"):
            editing_table.table_of([self.record(), self.record()])
        with pytest.raises(typer.Exit):
            editing_table.main([tmp_path / "none"], out=tmp_path / "table")
        assert not (tmp_path / "table").exists()


class TestClassification:
    @pytest.mark.parametrize("name", CLASSIFIERS)
    def test_every_classifier_takes_a_batch(self, name: str) -> None:
        data = small(2)
        graph = trace(data.template(), torch.zeros(3, 2))
        normalizer = classification.Normalizer(data)
        model = CLASSIFIERS[name](graph, 10, normalizer).double().eval()
        params = {n: p.double() for n, p in data.params.items()}
        out = model(params)
        assert out.shape == (2, 10)
        if name in ("gmn", "statnn", "deep_sets", "np_nfn", *LISTENING):
            moved_params = graph.permute(params, graph.random_symmetry())
            assert torch.allclose(model(moved_params), out, atol=1e-10)

    def test_normalized_tensors(self) -> None:
        data = small()
        out = classification.Normalizer(data)(data.params)
        for p in out.values():
            assert abs(float(p.mean())) < 1e-5
            assert p.numel() == len(data) or float(p.std()) == pytest.approx(1, abs=1e-4)

    def test_those_that_listen_hear_the_network_as_it_was(self) -> None:
        data = small()
        normalizer = classification.Normalizer(data)
        back = normalizer.back(normalizer(data.params))
        drawn = render(data.template(), 14, data.params)
        assert torch.allclose(render(data.template(), 14, back), drawn, atol=1e-3)
        seen: list[torch.Tensor] = []
        model = Drawn(10, normalizer, side=14)
        model.convolutions.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        model(normalizer(data.params))
        assert torch.allclose(seen[0].movedim(1, -1), drawn, atol=1e-3)

    @pytest.mark.parametrize("models", ["gmn,flat_mlp", "gmn_probes,drawn"])
    def test_as_one_runs_it(self, folder: Path, tmp_path: Path, models: str) -> None:
        run: dict[str, Any] = {
            "preset": "smoke", "data": "mnist", "inrs": folder, "out": tmp_path, "seeds": 2,
            "models": models, "device": "cpu",
        }  # fmt: skip
        classification.main(**run)
        first = json.loads((tmp_path / "result.json").read_text())
        assert [r["seed"] for r in first["runs"][models.split(",")[0]]] == [0, 1]
        assert first["budget"]["moves"]["mirror"] is False  # a mirrored digit may be none
        assert (tmp_path / "accuracy.png").is_file()
        classification.main(**run, resume=True)
        again = json.loads((tmp_path / "result.json").read_text())
        assert again["runs"] == first["runs"]
        with pytest.raises(typer.Exit):
            classification.main(**run, epochs=1, resume=True)


def test_the_benchmark_compares_at_equal_psnr(tmp_path: Path) -> None:
    inr_fitting.main(out=tmp_path, batch=2, loop=1, repeats=1, slots="2", psnr=15.0)
    record = json.loads((tmp_path / "result.json").read_text())
    for found in record["results"].values():
        for facts in found.values():
            assert facts["psnr_min"] >= 15.0
            assert facts["inrs_per_second"][0] > 0


def test_settings_from_the_command_line() -> None:
    configs = (EditorConfig(), TrainConfig())
    editor, train = with_settings(configs, ["hidden=16", "lr=0.1", "seconds=3", "symmetries=false"])
    assert editor == EditorConfig(hidden=16)
    assert train == TrainConfig(lr=0.1, seconds=3, symmetries=False)
    for change, message in (
        ("hidden", "there is no ="),
        ("hidden=big", "'big' is no JSON"),
        ("depth=3", "no 'depth'; there are average, batch"),
        ("hidden=1.5", "expected a value like 64, received 1.5"),
        ("lr=-1", "lr and seconds positive"),
    ):
        with pytest.raises(ValueError, match=message):
            with_settings(configs, [change])


def test_fitters_are_compared_from_the_same_start(tmp_path: Path) -> None:
    fitters.main(out=tmp_path, images=2, steps=20, every=10, rates="0.003", goal=5.0)
    record = json.loads((tmp_path / "result.json").read_text())
    assert set(record["summary"]) == {"gmn", "adam 0.003", "adam-cosine 0.003"}
    for name, found in record["summary"].items():
        assert found["psnr"] > 5, name
        assert found["reached"] == 2
        assert 0 < found["steps_to_goal"] <= 20
    assert [len(c) for c in record["curves"]["gmn"]] == [2, 2]
    assert (tmp_path / "curves.png").is_file()
    with pytest.raises(ValueError, match="Unknown fitter 'sgd'"):
        fitters.make_fitter("sgd", SirenConfig().build(), 3)
