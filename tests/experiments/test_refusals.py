"""What a user can put right ends an experiment with one message and exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from experiments import compare_optimizers
from experiments.benchmarks import inr_fitting
from experiments.frame import numbers, refusing
from experiments.inr import classification as inr_classification
from experiments.inr import data as make_inrs
from experiments.inr import fitters as inr_fitters
from experiments.inr import ssl as inr_ssl
from gmn_opt.data import DatasetError


def refusal(capsys: pytest.CaptureFixture[str], run: Callable[..., None], **options: Any) -> str:
    """What is said on the way out."""
    with pytest.raises(typer.Exit) as caught:
        run(**options)
    assert caught.value.exit_code == 2
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_a_full_data_set_that_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GMN_OPT_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("GMN_OPT_MNIST_URL", raising=False)
    said = refusal(capsys, make_inrs.main, data="mnist", preset="gpu", out=tmp_path / "out")
    assert said.startswith("MNIST was not found")
    assert "GMN_OPT_MNIST_URL" in said
    assert not (tmp_path / "out").exists()


def no_folder(tmp_path: Path) -> Path:
    """A place below a file, where no folder can be."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "out"


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        (make_inrs.main, {"widths": "32,wide"}, "--widths takes whole numbers"),
        (make_inrs.main, {"preset": "huge"}, "Unknown preset 'huge'"),
        (make_inrs.main, {"data": "cifar"}, "No images 'cifar'"),
        (make_inrs.main, {"count": "1,1,1", "out": None}, "Not a directory"),
        (compare_optimizers.main, {"weights": "none"}, "No weights named 'none'"),
        (compare_optimizers.main, {"suite": "none"}, "Unknown suite 'none'"),
        (compare_optimizers.main, {"out": None}, "Not a directory"),
        (inr_fitters.main, {"data": "cifar"}, "no bundled data set 'cifar'"),
        (inr_fitters.main, {"rates": "0.1,fast"}, "--rates takes positive numbers"),
        (inr_fitters.main, {"rates": "-0.1"}, "--rates takes positive numbers"),
        (inr_fitters.main, {"out": None}, "Not a directory"),
        (inr_fitting.main, {"data": "cifar"}, "no bundled data set 'cifar'"),
        (inr_fitting.main, {"slots": "16,"}, "--slots takes whole numbers"),
        (inr_fitting.main, {"device": "tpu"}, "Unknown device 'tpu'"),
        (inr_ssl.main, {"preset": "smoke", "out": None}, "Not a directory"),
        (inr_classification.main, {"preset": "smoke", "inrs": None}, "Not a directory"),
    ],
)
def test_refusals(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    run: Callable[..., None],
    options: dict[str, Any],
    message: str,
) -> None:
    """None stands for a folder that cannot be."""
    found = {n: no_folder(tmp_path) if v is None else v for n, v in options.items()}
    said = refusal(capsys, run, **{"out": tmp_path / "out", **found})
    assert message in said
    assert said.count("\n") == 1


def test_what_is_refused_and_what_is_not() -> None:
    console = Console(quiet=True)
    for error in (ValueError, DatasetError, ImportError, FileNotFoundError):
        with pytest.raises(typer.Exit), refusing(console):
            raise error("a reason")
    # a mistake of ours keeps its traceback
    with pytest.raises(RuntimeError, match="a reason"), refusing(console):
        raise RuntimeError("a reason")


def test_numbers() -> None:
    assert numbers("32, 16", "--widths") == (32, 16)
    for text in ("", "0", "-1", "1.5", "1,,2"):
        with pytest.raises(ValueError, match="--widths takes whole numbers"):
            numbers(text, "--widths")
