"""Editing by weights alone: ``python -m experiments.inr.strict --seconds 600``.

The strict protocol: the editor sees nothing but the weights of an INR: no rendering of it, no
gradient, no probe. Each of --copies trains an editor that emits so many networks, whose renderings
are averaged (:mod:`experiments.inr.copies`), and judges it on INRs never seen; so are the same
networks collapsed into one of their mean weights, and into one k times as wide. Writes
``result.json`` and ``table.md`` to --out. The table has a column that says which rows see more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.nn.functional import mse_loss

from experiments import frame
from experiments.inr.copies import CopiesEditor, copies_editor, side_by_side
from experiments.inr.data import folder_of, load_or_make
from experiments.inr.edit_report import bounds
from gmn_opt.inr import EditorConfig, EditTrainer, FitConfig, InrSet, TrainConfig, render
from gmn_opt.inr.edits import edited

#: By preset: CPU seconds of each training, the editor, the batch, steps of the floor's fits.
PRESETS = {
    "smoke": (2.0, EditorConfig(hidden=8, edge_hidden=4, layers=2), 4, 40),
    "cpu": (300.0, EditorConfig(hidden=48, edge_hidden=8, layers=3), 24, 1000),
    "gpu": (7200.0, EditorConfig(hidden=128, edge_hidden=16, layers=4), 128, 1000),
}
RESULTS = Path(__file__).parents[1] / "results" / "inr_editing"
#: Published errors on MNIST dilate: name, copies, [-1, 1].
PUBLISHED = (
    ("NFN-NP (Zhou et al. 2023)", 1, 0.0693),
    ("GMN (Lim et al. 2023)", 1, 0.0603),
    ("NFT (Zhou et al. 2023)", 1, 0.0510),
    ("DWS (Navon et al. 2023)", 1, 4 * 2.29e-2),
    ("NG-GNN (Kofinas et al. 2024)", 1, 4 * 2.06e-2),
    ("ScaleGMN-B (Kalogeropoulos et al. 2024)", 1, 4 * 1.89e-2),
    ("GMN + OCE (2026)", 1, 4 * 1.96e-2),
    ("GMN + OCE (2026)", 8, 4 * 1.06e-2),
)


@torch.no_grad()
def judged(editor: CopiesEditor, data: InrSet, edit: str, batch: int = 100) -> dict[str, float]:
    """Mean squared errors in [-1, 1]: of the mean of renderings, and of networks made one."""
    size = (data.images.shape[1], data.images.shape[2])
    wanted, inr = edited(data.targets(), edit), data.template()
    sums = dict.fromkeys(("mean_of_renderings", "mean_of_weights", "side_by_side"), 0.0)
    for start in range(0, len(data), batch):
        params = {n: p[start : start + batch] for n, p in data.params.items()}
        many = editor(params, data.config)
        wide, config = side_by_side(many, data.config)
        shown = {
            "mean_of_renderings": editor.show(params, data.config, size),
            "mean_of_weights": render(inr, size, {n: p.mean(0) for n, p in many.items()}),
            "side_by_side": render(config.build(), size, wide),
        }
        some = wanted[start : start + batch]
        for name, images in shown.items():
            sums[name] += float(mse_loss(images, some)) * len(some) / len(data)
    return sums


def trained(
    copies: int, sets: dict[str, InrSet], edit: str, config: EditorConfig, train: TrainConfig,
    seed: int, say: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train and judge one editor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        editor = copies_editor(copies)(sets["train"].config, config)
    trainer = EditTrainer([sets["train"]], edit, editor, train, seed, torch.device("cpu"))
    losses: list[float] = []
    while trainer.progress < 1:
        losses.append(trainer.advance())
        if trainer.step % train.check_every == 0:
            recent = losses[-train.check_every :]
            say(f"k = {copies}, {trainer.progress:4.0%}, step {trainer.step}: "
                f"{sum(recent) / len(recent):.4f}")  # fmt: skip
    final = trainer.result()
    assert isinstance(final, CopiesEditor)
    return {
        "copies": copies,
        "errors": judged(final, sets["test"], edit),
        "train_mse": sum(losses[-100:]) / len(losses[-100:]),
        "parameters": sum(p.numel() for p in final.parameters()),
        "steps": trainer.step,
        "skipped_steps": trainer.skipped,
        "training_seconds": round(trainer.seconds, 1),
    }


def joined(
    records: Sequence[Path], editor: dict[str, Any], training: dict[str, Any]
) -> list[dict[str, Any]]:
    """Runs in records; raises ValueError for other settings than these."""
    runs: list[dict[str, Any]] = []
    for path in records:
        found = frame.read_json(path)
        if (found["editor"], found["training"]) != (editor, training):
            raise ValueError(f"{path} is of runs with other settings than now.")
        runs += found["runs"]
    return runs


def table(runs: Sequence[dict[str, Any]], marks: dict[str, float], seconds: float) -> str:
    """Markdown of all that is comparable, and what each row sees."""
    rows = [("no edit", "nothing", 1, marks["identity"])]
    for run in sorted(runs, key=lambda r: r["copies"]):
        k, errors = run["copies"], run["errors"]
        rows.append(("ours, mean of renderings", "weights", k, errors["mean_of_renderings"]))
        if k > 1:
            rows.append(
                ("as one network, their mean weights", "weights", k, errors["mean_of_weights"])
            )
            rows.append(("as one network, k times as wide", "weights", k, errors["side_by_side"]))
    rows += [(name, "weights", k, error) for name, k, error in PUBLISHED]
    record = RESULTS / "inr-dilate-grey" / "result.json"
    if record.exists():
        seen = next(t for t in frame.read_json(record)["tests"] if t["data"] == "mnist")
        what = "weights, its renderings, gradients towards its own guess"
        rows.append(("ours, the editor that ships", what, 1, seen["test_mse"]))
    rows.append(("fitted to the edited image", "the edited image", 1, marks["floor"]))
    head = f"| Editor (ours: {seconds:.0f} s of one core) | Sees | k | [-1, 1] | [0, 1] |"
    lines = [head, "|---|---|--:|--:|--:|"]
    lines += [f"| {n} | {sees} | {k} | {e:.4f} | {e / 4:.4f} |" for n, sees, k, e in rows]
    return "\n".join(lines) + "\n"


def main(
    edit: Annotated[str, typer.Option(help="What is learned.")] = "dilate",
    data: Annotated[str, typer.Option(help="mnist or fashion_mnist")] = "mnist",
    preset: frame.Preset = "cpu",
    out: Annotated[Path, typer.Option(help="Folder.")] = Path("runs/inr_editing/strict"),
    inrs: Annotated[Path | None, typer.Option(help="Default: runs/inrs/DATA.")] = None,
    copies: Annotated[
        str, typer.Option(help="Networks that editors emit; '' for none.")
    ] = "1,2,4,8",
    seconds: Annotated[float | None, typer.Option(help="CPU time of each training.")] = None,
    others: Annotated[
        list[Path] | None, typer.Option(help="Records of runs of other copies, to be joined.")
    ] = None,
    seed: frame.Seed = 0,
    threads: frame.Threads = 1,
) -> None:
    """Train editors that read weights alone, and compare."""
    console = frame.begin(threads)
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        length, config, batch, fit_steps = PRESETS[preset]
        counts = frame.numbers(copies, "--copies") if copies else ()
        sets = load_or_make(inrs or folder_of(data, preset), data, preset)
        train = TrainConfig(seconds=seconds or length, batch=batch, lr=3e-3, check_every=100)
        config = replace(config, edit=edit)
        runs = joined(others or [], asdict(config), asdict(train))
    out.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    marks = bounds(sets["test"], edit, FitConfig(steps=fit_steps))

    def write() -> None:
        facts = {
            "edit": edit, "data": data, "seed": seed, "preset": preset, "bounds": marks,
            "inrs": {split: len(some) for split, some in sets.items()}, "runs": runs,
            "editor": asdict(config), "training": asdict(train), "target_range": [-1, 1],
            "cpu_seconds": round(time.process_time() - started, 1),
        }  # fmt: skip
        frame.write_record(out / "result.json", facts)
        frame.write_text(out / "table.md", table(runs, marks, seconds or length))

    for k in counts:
        runs.append(trained(k, sets, edit, config, train, seed, console.print))
        console.print(runs[-1])
        write()
    write()
    console.print((out / "table.md").read_text())


if __name__ == "__main__":
    typer.run(main)
