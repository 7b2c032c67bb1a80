"""Checkpoint files: whole or not there."""

from __future__ import annotations

import random
import resource
import stat
from pathlib import Path

import pytest
import torch

from gmn_opt.meta.checkpoint import load_checkpoint, save_checkpoint

STATE = {"a": torch.arange(5.0), "step": 3, "pairs": [(1, 2.5, None)], "name": "x"}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c.pt"
    save_checkpoint(path, STATE)
    found = load_checkpoint(path)
    assert torch.equal(found.pop("a"), STATE["a"])  # type: ignore[arg-type]
    assert found == {k: v for k, v in STATE.items() if k != "a"}
    assert [p.name for p in path.parent.iterdir()] == ["c.pt"]


def test_files_get_ordinary_modes(tmp_path: Path) -> None:
    """Others may read what is written, as far as the umask lets them."""
    plain = tmp_path / "plain"
    plain.write_text("")
    save_checkpoint(tmp_path / "c.pt", STATE)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """A limit on file sizes makes the system refuse the write half way."""
    path = tmp_path / "c.pt"
    save_checkpoint(path, STATE)
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(path, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert load_checkpoint(path)["step"] == 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"c\.pt is not a whole checkpoint"):
        load_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    path.write_text("hello, this is no checkpoint")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds a list, not the state of a run"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match=r"No checkpoint at .*other\.pt\. Start without --resume"):
        load_checkpoint(tmp_path / "other.pt")


def test_checkpoints_without_a_digest_are_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "c.pt")
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 3


def test_code_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"trainer": torch.nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("damage", ["bit", "bytes", "block", "end", "more"])
def test_any_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    """Thirty places each: torch.load alone gives other values for most of them."""
    path, draw = tmp_path / "c.pt", random.Random(0)
    save_checkpoint(path, {"a": torch.rand(5000), "step": 3})
    whole = path.read_bytes()
    for _ in range(30):
        content = bytearray(whole)
        at = draw.randrange(len(whole))
        if damage == "bit":
            content[at] ^= 1 << draw.randrange(8)
        elif damage == "bytes":
            content[at : at + 20] = bytes(255 - b for b in content[at : at + 20])
        elif damage == "block":
            content[at : at + 4096] = bytes(len(content[at : at + 4096]))
        elif damage == "end":
            del content[at:]
        else:
            content += content[at:]
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"c\.pt is not a whole checkpoint"):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path)["step"] == 3
