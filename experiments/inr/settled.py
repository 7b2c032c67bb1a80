"""Plain steps for a shipped editor: ``python -m experiments.inr.settled inr-dilate-grey``.

Gives an editor of single networks steps of :mod:`gmn_opt.inr.settling` after its rounds. Nothing is
trained: its file says so many steps then, and its card what they change on test images, beside the
error of the rounds alone on the same networks. *Speckles* are the root mean square, in [-1, 1], of
what is drawn where the reference is black for two pixels around. Keeps a record and a picture under
``experiments/results/inr_editing/NAME``.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn.functional import max_pool2d

from experiments import frame
from experiments.release_editor import PACKAGE, RESULTS
from gmn_opt.data import load_bundled
from gmn_opt.inr import WeightEditor, fit_batch, load_editor, render, save_editor
from gmn_opt.inr.edits import edited
from gmn_opt.inr.fitting import as_targets
from gmn_opt.inr.gallery import draw_gallery, error_image

#: Images in a picture.
_SHOWN = 10


def speckles(images: Tensor, reference: Tensor) -> float:
    """Root mean square of ``images [N, H, W, 1]`` above black, far from what is to be drawn."""
    near = max_pool2d(reference.movedim(-1, 1), 5, stride=1, padding=2).movedim(1, -1)
    return float((images + 1)[near <= -1].square().mean().sqrt())


@torch.no_grad()
def judge(editor: WeightEditor, images: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Errors with and without plain steps on networks of test images ``[N, H, W]``; pictures."""
    side = images.shape[1]
    with torch.enable_grad():
        found = fit_batch(images, editor.inr, seed=20_000)
    inr, target = editor.inr.build(), as_targets(images, editor.inr)
    wanted = edited(target, editor.config.edit)
    shown = {
        "image": target,
        "its network": render(inr, side, found.params),
        "rounds alone": render(inr, side, editor(found.params)),
        "half": render(inr, side, editor.edit_batch(found.params, strength=0.5)),
        "edited": render(inr, side, editor.edit_batch(found.params)),
        "reference": wanted,
    }
    shown["error"] = error_image(shown["edited"], wanted)
    ways = {"identity": "its network", "rounds_alone": "rounds alone", "test_mse": "edited"}
    facts: dict[str, Any] = {k: float((shown[v] - wanted).square().mean()) for k, v in ways.items()}
    facts |= {"count": len(images), "speckles": speckles(shown["edited"], wanted),
              "speckles_of_rounds_alone": speckles(shown["rounds alone"], wanted)}  # fmt: skip
    return facts, {k: v[:_SHOWN] for k, v in shown.items()}


def main(
    name: Annotated[str, typer.Argument(help="Of a shipped editor for grey images.")],
    steps: Annotated[int, typer.Option(min=1, help="Plain steps.")] = 80,
    count: Annotated[int, typer.Option(min=_SHOWN, help="Test images of each data set.")] = 256,
    package: Annotated[Path, typer.Option(help="Where weights and card are.")] = PACKAGE,
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
    threads: frame.Threads = 1,
) -> None:
    """Give a shipped editor plain steps, and judge it."""
    console = frame.begin(threads)
    with frame.refusing(console):
        editor = load_editor(package / f"{name}.safetensors", 1)
    editor.config = replace(editor.config, settle=steps)
    tests, kept = [], results / "inr_editing" / name
    for data in ("mnist", "fashion_mnist"):
        facts, shown = judge(editor, load_bundled(data).test_images[:count])
        tests.append({"data": data, **facts})
        console.print(tests[-1])
        draw_gallery(shown, kept / f"settled-{data}.png", f"{editor.config.edit}: unseen images")
    path = package / f"{name}.safetensors"
    save_editor(path, editor, editor.about)
    card = frame.read_json(path.with_suffix(".json"))
    card["sizes"]["settle"] = steps
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    card["results"]["note"] = (
        "test_mse and tests are of the rounds alone; with the plain steps that the editor takes "
        "after them, see settled"
    )
    card["settled"] = frame.write_record(kept / "settled.json", {"steps": steps, "tests": tests})
    frame.write_json(path.with_suffix(".json"), card, indent=2)


if __name__ == "__main__":
    typer.run(main)
