"""Every example runs, on tiny settings, and does what it is for."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def lower(limit: float) -> Callable[[Any], None]:
    """The result is a loss below ``limit``."""

    def check(result: float) -> None:
        assert 0 < result < limit

    return check


def plain_loop(result: float) -> None:
    """Better than chance by far, and a checkpoint at the end."""
    assert result > 0.6
    assert Path("plain_loop.pt").stat().st_size > 1000


def edit_photo(result: float) -> None:
    """More contrast, and two pictures."""
    assert result > 1.05
    for picture in ("photo.png", "photo_contrast.png"):
        with Image.open(picture) as image:
            assert image.size == (64, 64)


def predict_folder(result: float) -> None:
    """Something was learned from 54 networks; a predictor was saved."""
    assert result > -0.5
    assert len(list(Path("few").glob("*.pt"))) == 90
    assert Path("predictor.safetensors").stat().st_size > 1000


def align_and_merge(losses: dict[str, float]) -> None:
    """A permutation changes nothing, and alignment brings the middle down."""
    assert losses["second, permuted"] == pytest.approx(losses["second"], rel=1e-3)
    renewed = losses["mean, aligned, batch statistics renewed"]
    assert renewed < 0.8 * losses["mean of both as they are"]


#: Tiny settings, what the result must be, and the libraries that may be missing.
CASES: dict[str, tuple[dict[str, Any], Callable[[Any], None], tuple[str, ...]]] = {
    "align_and_merge": ({"steps": 60}, align_and_merge, ("scipy",)),
    "edit_photo": ({"steps": 200, "size": 64}, edit_photo, ()),
    "fsdp2": ({"steps": 20}, lower(2.3), ()),
    "huggingface_trainer": ({"steps": 5}, lower(5.5), ("transformers", "accelerate")),
    "lightning_module": ({"epochs": 1, "examples": 1280}, lower(2.0), ("lightning",)),
    "meta_train_task": ({"meta_steps": 3, "horizon": (5, 10)}, lower(1.0), ()),
    "plain_loop": ({"steps": 30, "every": 15}, plain_loop, ()),
    "predict_folder": ({"count": 90, "minutes": 0.05, "folder": "few"}, predict_folder, ()),
}


def test_every_example_is_here_and_short() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == CASES.keys()
    for file in EXAMPLES.glob("*.py"):
        assert 30 <= len(file.read_text("utf-8").splitlines()) <= 90, file.name


@pytest.mark.filterwarnings("default")  # those of other people's libraries
@pytest.mark.parametrize("name", CASES)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, check, needed = CASES[name]
    for library in needed:
        pytest.importorskip(library, reason=f"the example needs {library}")
    monkeypatch.chdir(tmp_path)
    for variable in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    try:
        check(main(**settings))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
